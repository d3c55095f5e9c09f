"""Make Table 1 of Q-DiT: one group size for all layers, from large to small; one block per model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.metrics import compared, shown_on
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
    run_keys,
    with_differences,
)

RESOLUTIONS = {"imagenet-256": 256, "imagenet-512": 512, "digits": 256, "digits-16": 512}
"""Reference data of a model → the resolution in the paper; the digits (8 and 16 pixels) stand for 256 and 512."""


def table1(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    printed = read_published(published / "table1.csv")
    return Table(
        name=name,
        title=definition.get("title", "One group size for all layers (Q-DiT, Table 1)"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="DiT-XL/2 on ImageNet; bits, steps and guidance are not stated",
        shows_bits=True,
        blocks=tuple(_block(profile, definition, block, results, printed) for block in definition["blocks"]),
        metrics=shown_on("table1"),
        remarks=(
            "Weights are rounded to nearest. Activations are quantized dynamically, per token and group, as in a search"
            " for group sizes. We infer from the paper’s Table 2 that its rows are W4A8 without guidance.",
            "This table of the paper has no full-precision row, no IS and no Precision.",
        ),
    )


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    printed: list[PublishedRow],
) -> Block:
    fitted, rows = fitted_labels(definition, block), []
    model = profile["models"][profile["settings"][block["setting"]]["model"]]
    resolution = RESOLUTIONS.get(model["reference"])
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        rows.append(row | _beside(row, resolution, printed))
    about = f"{block['setting']}, scope {block['scope']}"
    beside = f"; beside it the paper's {resolution}×{resolution}" if resolution else ""
    return Block(
        title=f"{describe_setting(profile, block)} · {block['form']} form",
        about=about + beside,
        rows=with_differences(rows),
    )


def _beside(row: Row, resolution: int | None, printed: list[PublishedRow]) -> Row:
    """The name of a row, its group size, and the printed numbers of the corresponding group size."""
    size, paper = row["group_size"], row["paper_group_size"]
    if size is None:
        return {}
    words = f"Group size {size}" if paper in (None, size) else f"Group size {size} (paper’s {paper})"
    cells: Row = {"name": words, "short": f"group size {size}"}
    printed_row = None if resolution is None else find(printed, resolution=resolution, group_size=paper)
    if printed_row is not None:
        cells |= {f"published_{metric}": printed_row[metric] for metric in compared() if metric in printed_row}
        cells["published_method"] = f"Group size {paper}"
    return cells
