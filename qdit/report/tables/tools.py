"""Make the table that compares tools (other libraries) and imported images with our methods, at equal bits.

It shows damage, sizes and speeds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qdit.core.metrics import shown_on
from qdit.core.ranking import damage_of, ranking_metric, value_text
from qdit.core.run import IMPORTED, TOOL
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
from qdit.report.data.speeds import COLUMNS, measured_on, read_speed, speed_cells
from qdit.report.data.standings import Contest, contests, short_name


def tools(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder. No printed numbers stand beside ours."""
    definition = profile["tables"][name]
    blocks = tuple(_block(profile, definition, block, results) for block in definition["blocks"])
    rows = [row for block in blocks for row in block.rows]
    return Table(
        name=name,
        title=definition.get("title", "Other people’s tools beside the papers’ methods"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=blocks,
        metrics=shown_on("tools"),
        extra=COLUMNS,
        front=frozenset({"disk_mb", "over_fp_real"}),
        summary=tuple(_finding(blocks)),
        remarks=tuple(_remarks(rows)),
    )


def _block(profile: Mapping[str, Any], definition: Mapping[str, Any], block: Mapping[str, Any], results: Path) -> Block:
    fitted = fitted_labels(definition, block)
    rows = []
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        content = read_speed(results, key)
        row |= speed_cells(content) | {"disk_mb": row.get("size_actual_mb"), "speed": content}
        if key.mode == TOOL:
            row["detail"] = "tool" + (f", {row['backend']}" if is_measured(row) else "")
        rows.append(row if is_full_precision(row) else row | {"short": f"{key.bits.upper()} {row['short']}"})
    return Block(
        title=f"{describe_setting(profile, block)} · {block['form']} form",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )


def _finding(blocks: Iterable[Block]) -> Iterable[str]:
    """One sentence: the best tool against the best method of ours at each of the bits; then how it was decided."""
    comparisons = [text for block in blocks for contest in contests(block) if (text := _compared(contest))]
    if not comparisons:
        return
    metric = ranking_metric().title
    yield f"The best of our methods against the best of others by {metric}: {'; '.join(comparisons)}."
    yield (
        f"{ranking_metric().reading} Every row quantizes the four linears of each block. The speeds are of this"
        " machine, and of small matrices."
    )


def _compared(contest: Contest) -> str:
    """Our best row against the best row of others; empty unless the contest has both."""
    theirs = [row for row in contest.rows if row["key"].mode in (TOOL, IMPORTED)]
    ours = [row for row in contest.rows if row["key"].mode not in (TOOL, IMPORTED)]
    if not (theirs and ours):
        return ""
    first, second = sorted((ours[0], theirs[0]), key=damage_of)
    if not contest.separation.apart(first, second):
        return f"at {contest.bits} chance can explain the difference between {_pair(first)} and {_pair(second)}"
    return f"at {contest.bits} {_pair(first)} is before {_pair(second)} by more than chance"


def _pair(row: Row) -> str:
    """Name and value of a row."""
    return f"{short_name(row)} ({value_text(row)})"


def _remarks(rows: list[Row]) -> Iterable[str]:
    yield (
        "On disk: size of one safetensors file with the tensors of the quantized network. In memory: size of all"
        " tensors that the network holds while it runs. Our simulated rows hold float32 weights and copies of them that"
        " are packed for the processor. Our integer rows hold packed codes."
    )
    if duplicated := sorted({row["float_mb"] for row in rows if row.get("float_mb")}):
        full = next((row["disk_mb"] for row in rows if is_full_precision(row) and row.get("disk_mb")), None)
        ours = f"; our form of the model has {full:.2f} MB" if full else ""
        yield (
            "Tools quantize the model as diffusers stores it, with a copy of the embedders in every block. In float32"
            f" it has {', '.join(f'{size:.2f}' for size in duplicated)} MB{ours}."
        )
    places = {measured_on(row["speed"]) for row in rows if row.get("speed")}
    for place in sorted(places):
        yield (
            f"Speed: images per CPU second of the network’s forward passes, over all steps of one chunk; {place}. × FP:"
            " over the speed of our full-precision network, which sampled in turn with the row in one process; above 1"
            " is faster. Speed differs from run to run, so speed.json holds it and metrics.json does not. Tools use"
            " their CPU code; their GPU kernels are not measured here. `qdit tools speed` measures a row again."
        )
    reasons = {row["why_not_integer"]: row for row in rows if row.get("why_not_integer") and not is_full_precision(row)}
    for reason, row in reasons.items():
        yield f"No integer arithmetic, for example {row['short']}: {reason}."
    if any(row["key"].mode == IMPORTED for row in rows):
        yield (
            "Imported: another program made the images. The bits are a claim of the person who imported them. So is the"
            " noise, if the files state a protocol. Sizes and speeds are unknown."
        )
