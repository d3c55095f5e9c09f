"""Make Table 4 of Q-DiT: from round-to-nearest to Q-DiT in steps, one block per form of the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.metrics_record import Status
from qdit.core.run import Run, split_bits
from qdit.report.data.faces import face_of_setting, face_of_table
from qdit.report.data.metrics_json import Row, with_status
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

STEPS = (
    "FP (W16A16)",
    "W4A8 RTN",
    "+ Group size 128",
    "+ Sample-wise dynamic activation quantization",
    "+ Automatic quantization granularity allocation",
)
"""The printed steps. A block's methods fill them in order; the remaining steps are shown as not run."""

ROUNDED = f"{STEPS[-1]}, weights rounded to nearest"
"""A step between the last two, of a block with one method more: the searched sizes without GPTQ, not printed."""

SHORT_NAMES = dict(
    zip((*STEPS, ROUNDED), ("FP", "RTN", "+ groups", "+ dynamic", *2 * ("+ searched sizes",)), strict=True)
)
"""Short names of the steps. In a block that has `ROUNDED`, the last step is Q-DiT as a whole (`short_step`)."""

PUBLISHED_BITS = (4, 8)
ALLOCATED = (
    "A search found the group sizes for each form (Table 6). In all rows above the last the weights are rounded to"
    " nearest; whether those of the paper are is not said."
)
ALLOCATED_ROUNDED = (
    "The last row differs from the one above it in its group sizes only: a search found them for each form (Table 6),"
    " and the weights are rounded to nearest in both."
)


def table4(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    printed = read_published(published / "table4.csv")
    blocks = tuple(_block(profile, definition, block, results, printed) for block in definition["blocks"])
    rows = [row for block in blocks for row in block.rows]
    return Table(
        name=name,
        title=definition.get("title", "From RTN to Q-DiT, step by step (Q-DiT, Table 4)"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="DiT-XL/2 on ImageNet 256×256, DDIM, 100 steps, guidance (cfg) 1.5, 10,000 images",
        shows_bits=False,
        blocks=blocks,
        remarks=_remarks(rows),
    )


def _remarks(rows: list[Row]) -> tuple[str, ...]:
    """How the last step differs from the one above it, if the profile has a method for it."""
    last = [row for row in rows if row["step"] == STEPS[-1] and row["state"] != Status.NOT_RUN]
    if not last:
        return ()
    return (ALLOCATED if any(row["step"] == ROUNDED for row in rows) else ALLOCATED_ROUNDED,)


def steps_of(block: Mapping[str, Any]) -> dict[str, str]:
    """Return label → step of Table 4, in the order of a block's methods.

    The paper prints the last step once; a block may have two methods for it.
    """
    steps = (*STEPS[:-1], ROUNDED, STEPS[-1]) if len(block["methods"]) > len(STEPS) else STEPS
    return dict(zip(block["methods"], steps, strict=False))


def short_step(step: str, steps: Mapping[str, str]) -> str:
    """Return the short name of a step; `steps` are those of its block (label → step)."""
    return "Q-DiT" if step == STEPS[-1] and ROUNDED in steps.values() else SHORT_NAMES[step]


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    printed: list[PublishedRow],
) -> Block:
    if len(block["methods"]) > len(STEPS) + 1 or len(block["bits"]) != 1:
        raise ConfigError(
            f"table4 block of form {block['form']!r}: {len(block['methods'])} methods at bits {block['bits']};"
            f" allowed are up to {len(STEPS) + 1} methods (the steps of the table) at one; correct the profile"
        )
    fitted = fitted_labels(definition, block)
    steps = steps_of(block)
    rows = []
    for key in run_keys(profile, block):
        step = steps[key.label]
        row = make_row(profile, results, key, fitted=key.label in fitted, published=_match(printed, step, key))
        rows.append(row | {"step": step, "name": _name(step, row), "short": short_step(step, steps)})
    rows += [_not_run(profile, block, step, printed) for step in STEPS[len(steps) :]]
    return Block(
        title=f"{block['form']} form · {describe_setting(profile, block)}",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )


def _match(printed: list[PublishedRow], step: str, key: Run) -> PublishedRow | None:
    """The printed row of a step, or None at bits that the paper does not print."""
    bits = (key.weight_bits, key.activation_bits)
    return find(printed, step=step) if bits in (PUBLISHED_BITS, (16, 16)) else None


def _name(step: str, row: Row) -> str:
    """The printed name of a step with our bits and group size."""
    if step == STEPS[1]:
        return f"{row['key'].bits.upper()} RTN"
    if step == STEPS[2] and row["group_size"] is not None:
        return f"+ Group size {row['group_size']} (paper’s 128)"
    return step


def _not_run(profile: Mapping[str, Any], block: Mapping[str, Any], step: str, printed: list[PublishedRow]) -> Row:
    """The row of a step without a method in the profile: printed numbers only."""
    weight_bits, activation_bits = split_bits(block["bits"][0])
    row: Row = {"setting": block["setting"], "form": block["form"], "scope": block["scope"]}
    row |= {"weight_bits": weight_bits, "activation_bits": activation_bits, "step": step, "name": step}
    row |= {"profile": profile["profile"], "face": face_of_setting(profile, block["setting"])}
    key = Run(row["setting"], row["form"], "", block["bits"][0], row["scope"])
    return row | published_cells(_match(printed, step, key)) | with_status(Status.NOT_RUN)
