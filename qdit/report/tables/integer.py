"""Make the table that compares integer mode with simulated mode, for the same checkpoint and noise."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qdit.core.metrics import shown_on
from qdit.core.run import Run
from qdit.report.data.faces import face_of_table
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import (
    Block,
    Table,
    describe_setting,
    fitted_labels,
    is_full_precision,
    is_measured,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)

EXTRA = ("latent_images", "latent_largest", "latent_mean")
"""Columns of the CSV beyond those of every table."""


def integer(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder. No printed numbers stand beside ours."""
    definition = profile["tables"][name]
    blocks = tuple(_block(profile, definition, block, results) for block in definition["blocks"])
    compared = sorted({row["latent_images"] for block in blocks for row in block.rows if row.get("latent_images")})
    images = ", ".join(f"{count:g}" for count in compared) or "no"
    return Table(
        name=name,
        title=definition.get("title", "Integer arithmetic beside its simulation"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=blocks,
        metrics=shown_on("integer"),
        extra=EXTRA,
        remarks=(
            "Simulated: values are quantized, dequantized and multiplied in floating point. Integer: integer codes are"
            " multiplied, and the sums of a group are exact. Both use the same checkpoint and the same noise.",
            f"Latents: absolute difference of the final latents, integer against simulated, over {images} images of a"
            " run. One forward pass differs by rounding errors only. Some values then get another integer code, and the"
            " following sampling steps enlarge the difference.",
        ),
        marks_best=False,
    )


def _block(profile: Mapping[str, Any], definition: Mapping[str, Any], block: Mapping[str, Any], results: Path) -> Block:
    fitted = fitted_labels(definition, block)
    rows = []
    for key in run_keys(profile, block):
        simulated = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        if is_full_precision(simulated):
            rows.append(simulated)
            continue
        integer_key = replace(key, mode="integer")
        rows += [
            _named(simulated, "simulated", key),
            _named(make_row(profile, results, integer_key, fitted=key.label in fitted, published=None), "integer", key),
        ]
    return Block(
        title=f"{describe_setting(profile, block)} · {block['form']} form",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )


def _named(row: Row, mode: str, key: Run) -> Row:
    """The row with its mode and kernel backend beside the method's name."""
    backend = f", {row['backend']}" if is_measured(row) else ""
    short = f"{key.bits.upper()} {row['short']}"
    return row | {"detail": mode + backend, "short": short if mode == "simulated" else f"{short} int"}
