"""Make Table 6 of Q-DiT: methods that choose group sizes under one budget, and the cost of each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdit.core.metrics import METRICS, shown_on
from qdit.report.data.allocations import COLUMNS, SearchedAllocation, allocation_cells
from qdit.report.data.faces import face_of_table
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import PublishedRow, find, read_published
from qdit.report.data.rows import (
    Block,
    Table,
    describe_setting,
    fitted_labels,
    is_miniature,
    make_row,
    published_cells,
    run_keys,
    with_differences,
)
from qdit.report.render.allocation_figures import fresh_noise, heat_maps, kept

PRINTED = {"ilp": "ILP", "hessian": "Hessian-based", "evolution": "Evolutionary (Q-DiT)"}
"""Kind of search → the row that the paper prints for it."""

PRINTED_UNIFORM = "Group size = 128"
PUBLISHED_BITS = (4, 8)


def table6(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    printed = read_published(published / "table6.csv")
    blocks = tuple(_block(profile, definition, block, results, printed) for block in definition["blocks"])
    shared = profile.get("allocation", {})
    measured = shared.get("metric", "")
    metric = METRICS[measured].title if measured in METRICS else "fitness"
    return Table(
        name=name,
        title=definition.get("title", "Ways to choose group sizes (Q-DiT, Table 6)"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="DiT-XL/2 on ImageNet 256×256, DDIM, 100 steps, guidance (cfg) 1.5, W4A8, 10,000 images",
        shows_bits=True,
        blocks=blocks,
        metrics=shown_on("table6"),
        extra=COLUMNS,
        figures=kept(
            [
                heat_maps(
                    [pair for block in blocks for pair in _searched(block, titled=True)], shared.get("sizes", ())
                ),
                fresh_noise([(block.title, _searched(block)) for block in blocks], metric),
            ]
        ),
        remarks=tuple(_remarks(profile, blocks, metric)),
    )


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    printed: list[PublishedRow],
) -> Block:
    fitted, rows = fitted_labels(definition, block), []
    headline = [label for label in block["methods"] if is_headline(profile, label)]
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        row |= allocation_cells(profile, results, key, row)
        if (key.weight_bits, key.activation_bits) == PUBLISHED_BITS:
            row |= _beside(profile, row, printed, headline)
        if key.label in headline:
            row["detail"] = "searched group sizes, GPTQ weights"
        elif row["group_size"] is not None:
            row["name"] = f"Group size {row['group_size']}"
            paper = row["paper_group_size"]
            row["detail"] = "" if paper in (None, row["group_size"]) else f"the paper’s {paper}"
        rows.append(row | {"short": row["name"]})
    return Block(
        title=f"{block['form']} form · {describe_setting(profile, block)}",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )


def is_headline(profile: Mapping[str, Any], label: str) -> bool:
    """Return whether a label is Q-DiT itself: group sizes from a search, and weights rounded by GPTQ."""
    entry = profile["methods"][label]
    return "search" in entry and entry.get("options", {}).get("rounding", "gptq") == "gptq"


def _beside(profile: Mapping[str, Any], row: Row, printed: list[PublishedRow], headline: Sequence[str]) -> Row:
    """The printed cells of the same search method, or of the uniform group size; Q-DiT's own stand beside Q-DiT."""
    if row["search"] is None:
        name = PRINTED_UNIFORM if row["paper_group_size"] == 128 else None
    elif headline:
        kind = "evolution" if row["label"] in headline else profile["searches"][row["search"]]["kind"]
        name = PRINTED.get(kind) if row["label"] in headline or kind != "evolution" else None
    else:
        name = PRINTED.get(profile["searches"][row["search"]]["kind"])
    printed_row = None if name is None else find(printed, search=name)
    return {} if printed_row is None else published_cells(printed_row | {"method": name})


def _searched(block: Block, *, titled: bool = False) -> list[tuple[str, SearchedAllocation]]:
    """(name, allocation) of the rows that have one."""
    pairs = [
        (row["name"], row["searched_allocation"], row["form"])
        for row in block.rows
        if row.get("searched_allocation") is not None
    ]
    return [(f"{name}, {form}" if titled else name, allocation) for name, allocation, form in pairs]


def _remarks(profile: Mapping[str, Any], blocks: tuple[Block, ...], metric: str) -> list[str]:
    shared = profile.get("allocation", {})
    rows = [row for block in blocks for row in block.rows]
    remarks = [
        "All rows but Q-DiT round weights to nearest and quantize activations dynamically, as the searches do; they"
        " differ in their group sizes only. The paper has no rows for random search, racing and linear response.",
    ]
    if any(row["label"] != "fp" and is_headline(profile, row["label"]) for row in rows):
        remarks.append(
            "Q-DiT has GPTQ weights besides the sizes of its search. It is the row of Table 2, and the paper prints the"
            " same numbers for it here, in Table 2 and in Table 4."
        )
    if shared:
        remarks.append(
            f"Budget: bit operations of group size {shared['reference']} everywhere; sizes"
            f" {', '.join(map(str, sorted(shared['sizes'])))}. Searches measure {metric} on {shared['images']} images"
            " per allocation, from noise that no row uses. Images sampled: those of all allocations that the search"
            " tried. Mean g: harmonic mean of the group sizes, weighted by multiply-adds."
        )
    return remarks
