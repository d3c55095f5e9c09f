"""A table of methods without numbers of a paper: for example all methods that can quantize to W4A4."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.metrics import shown_on
from qdit.report.data.rows import (
    Block,
    Table,
    describe_setting,
    fitted_labels,
    group_text,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)

COLUMNS = (*(name for name in shown_on("variants") if name != "ratio_fd_fp"), "size_actual_mb")
"""Columns of the page. The size on disk is that of the checkpoint, with everything that its sites hold."""


def methods(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """The table `name` of a profile; `results` is the profile's folder. Its first block decides the headline."""
    definition = profile["tables"][name]
    blocks = definition["blocks"]
    return Table(
        name=name,
        title=definition.get("title", "Methods beside each other"),
        profile=profile["profile"],
        face=profile["face"],
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=tuple(_block(profile, definition, block, results) for block in blocks),
        metrics=COLUMNS,
        remarks=(
            "Per token: a weight has one range for each output channel, and an input one for each token. Groups of N,"
            " or g N: N inputs share a range.",
            "Rotations, factors that cannot be folded, and low-rank branches cost time and memory beside the weights."
            " The size on disk counts what is stored of them.",
        ),
        decides_at=blocks[0]["bits"][0].upper(),
    )


def _block(profile: Mapping[str, Any], definition: Mapping[str, Any], block: Mapping[str, Any], results: Path) -> Block:
    fitted, rows = fitted_labels(definition, block), []
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        about = profile["methods"][key.label].get("about")
        row["detail"] = str(row["label"]) if about else group_text(row) if row["group_size"] is not None else ""
        rows.append(row | {"short": f"{key.bits.upper()} {row['short']}"})
    bits = ", ".join(bits.upper() for bits in block["bits"])
    return Block(
        title=f"{bits} · {describe_setting(profile, block)} · {block['form']} form",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )
