"""Make the table of transfer: each allocation is searched on one model, form and bits, and measured on all others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.metrics import shown_on
from qdit.core.ranking import ranking_metric
from qdit.report.data.allocations import COLUMNS, allocation_cells
from qdit.report.data.faces import face_of_table
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import (
    Block,
    Figure,
    Table,
    describe_setting,
    fitted_labels,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)
from qdit.report.render.allocation_figures import kept, matrix

HOME = "home"


def transfer(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder. No printed numbers stand beside ours."""
    definition = profile["tables"][name]
    blocks = tuple(_block(profile, name, block, results) for block in definition["blocks"])
    return Table(
        name=name,
        title=definition.get("title", "Allocations on other models, forms and bit widths"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=blocks,
        metrics=shown_on("transfer"),
        extra=(*COLUMNS, "base", "ratio_fd_fp"),
        figures=kept([_matrix(definition["blocks"], blocks)]),
        remarks=(
            "FD-FP ÷ base: a row’s FD-FP divided by that of the uniform reference size on the same model, form and"
            " bits; below 1 the allocation is better than uniform there by FD-FP. The sentence at the top"
            f" counts by {ranking_metric().title}, which can disagree. Home: the allocation was searched there.",
            "Layers correspond by block and role: both mini models have seven blocks of the same widths. All rows round"
            " weights to nearest; random allocations have the same budget.",
        ),
    )


def _block(profile: Mapping[str, Any], name: str, block: Mapping[str, Any], results: Path) -> Block:
    fitted = fitted_labels(profile["tables"][name], block)
    rows = []
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        row |= allocation_cells(profile, results, key, row)
        home = row.get("searched_at") is not None and "searched_at" in profile["methods"][key.label]
        at_home = home and row["searched_at"] == f"{key.setting}/{key.form}/{row['search']}/{key.bits}"
        row["detail"] = HOME if at_home else ""
        if row["group_size"] is not None:
            row["name"] = f"Group size {row['group_size']}"
        rows.append(row | {"short": row["name"]})
    base = _uniform(profile, rows, name)
    for row in rows:
        value, against = row.get("fd_fp"), base.get("fd_fp")
        row |= {
            "base": base["label"],
            "ratio_fd_fp": None if value is None or not against else round(value / against, 10),
        }
    bits = block["bits"][0].upper()
    return Block(
        title=f"{bits} · {describe_setting(profile, block)} · {block['form']} form",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )


def _uniform(profile: Mapping[str, Any], rows: list[Row], name: str) -> Row:
    """The row of the uniform reference size."""
    reference = profile.get("allocation", {}).get("reference")
    for row in rows:
        if row["search"] is None and row["group_size"] is not None and row["group_size"] == reference:
            return row
    raise ConfigError(
        f"table {name!r}: a block has no method of uniform group_size {reference}, to which all others are compared;"
        " add one"
    )


def _matrix(definitions: list[Mapping[str, Any]], blocks: tuple[Block, ...]) -> Figure | None:
    """Matrix of the ratios of all blocks: origin of the allocation (rows) against where it is measured (columns)."""
    names = list(dict.fromkeys(row["name"] for block in blocks for row in block.rows if row["search"] is not None))
    columns = [f"{block['setting'].split('-')[0]}\n{block['form']} {block['bits'][0].upper()}" for block in definitions]
    cells = [{row["name"]: row.get("ratio_fd_fp") for row in block.rows} for block in blocks]
    values = [[column.get(name) for column in cells] for name in names]
    return matrix(
        names,
        columns,
        values,
        title="FD-FP against that of uniform group sizes",
        about="Rows: where an allocation was searched. Columns: where it is measured."
        " Below 1 (blue): better than uniform by FD-FP.",
    )
