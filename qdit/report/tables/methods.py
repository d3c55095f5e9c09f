"""Make a table of methods without numbers of a paper: for example all methods that can quantize to W4A4.

The table has the damage and the costs of each row: the bits that it stores for a weight, and the measured time of one
block. Its figure shows damage against speed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdit.core.metrics import shown_on
from qdit.core.ranking import ranking_metric
from qdit.core.run import FULL_PRECISION_METHOD
from qdit.report.data.block_times import COLUMNS as BLOCK
from qdit.report.data.block_times import GPU_COLUMNS, Measured, block_cells, measured_blocks
from qdit.report.data.faces import face_of_table
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import method_names, read_published
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
from qdit.report.data.standings import Contest, contests
from qdit.report.data.stored import COLUMNS as STORED
from qdit.report.data.stored import stored_cells
from qdit.report.tables.methods_finding import facts, finding
from qdit.report.tables.methods_speed import figure, remarks, speed_facts

FRONT = tuple(dict.fromkeys((ranking_metric().name, "psnr_fp", "fd_fp", "ssim_fp", *STORED, *BLOCK)))
"""Columns that the page shows at once."""
OTHERS = tuple(name for name in shown_on("variants") if name not in (*FRONT, "ratio_fd_fp"))

PAPER = "table2"
"""The printed comparison: its methods are those of the paper."""
NOT_IN_THE_PAPER = "not in the paper"

NATURAL = "natural"


def methods(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder. Its first block decides the headline."""
    definition = profile["tables"][name]
    listed, measured = definition["blocks"], measured_blocks(results)
    printed = methods_of_paper(published)
    blocks = tuple(_block(profile, definition, block, results, measured, printed) for block in listed)
    rows = [row for block in blocks for row in block.rows]
    decides_at = listed[0]["bits"][0].upper()
    contest = _deciding(blocks, decides_at)
    answer = () if contest is None else finding(contest)
    because = () if contest is None else tuple(facts(contest, miniature=is_miniature(profile)))
    gpu = GPU_COLUMNS if measured.gpu is not None else ()
    return Table(
        name=name,
        title=definition.get("title", "Methods beside each other"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=blocks,
        metrics=(*FRONT, *gpu, *OTHERS, "size_actual_mb"),
        extra=(*STORED, *BLOCK, *GPU_COLUMNS),
        front=frozenset((*FRONT, *gpu)),
        cover=figure(contest, measured),
        summary=(_text(answer), *because, *speed_facts(contest, measured)) if answer else (),
        answer=answer,
        problems=(*measured.problems, *_problems(rows)),
        remarks=(
            "Ranges, input × weight: which elements share a scale. A token, or a group of inputs of a token, has its"
            " own range for inputs; a channel, or a group of inputs of a channel, has its own for weights.",
            "Bits per weight: bytes in the checkpoint’s file of codes, scales, zero points, transforms and low-rank"
            " factors, divided by the number of quantized weights.",
            f"“{NOT_IN_THE_PAPER}”: Q-DiT’s Table 2 has no row of this method.",
            *remarks(measured, rows),
        ),
        decides_at=decides_at,
    )


def _text(pieces: Sequence[tuple[str, bool]]) -> str:
    return "".join(text for text, _ in pieces)


def methods_of_paper(published: Path) -> tuple[str, ...]:
    """Return our names of the methods in Q-DiT's Table 2, in its order. Round to nearest is in its Table 4."""
    ours = {printed: name for name, printed in method_names().items()}
    order = dict.fromkeys(str(row["method"]) for row in read_published(published / f"{PAPER}.csv"))
    return (FULL_PRECISION_METHOD, "rtn", *(ours[printed] for printed in order if printed in ours))


def _deciding(blocks: Sequence[Block], bits: str) -> Contest | None:
    """The contest of the headline: the first one at these bits in the natural form."""
    candidates = [contest for block in blocks for contest in contests(block) if contest.bits == bits]
    return next((contest for contest in candidates if contest.first["form"] == NATURAL), None)


def _problems(rows: Sequence[Row]) -> list[str]:
    texts = [(row, row["stored_problem"]) for row in rows if row.get("stored_problem")]
    return [f"{row['name']} {row['key'].bits.upper()}: bits per weight are unknown; {text}" for row, text in texts]


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    measured: Measured,
    printed: Sequence[str],
) -> Block:
    fitted, rows = fitted_labels(definition, block), []
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        row |= stored_cells(key.folder(results)) | block_cells(measured, row)
        about = profile["methods"][key.label].get("about")
        detail = str(row["label"]) if about else group_text(row) if row["group_size"] is not None else ""
        marks = [detail, "" if row["method"] in printed else NOT_IN_THE_PAPER]
        row["detail"] = "; ".join(filter(None, marks))
        rows.append(row | {"short": f"{key.bits.upper()} {row['short']}"})
    bits = ", ".join(bits.upper() for bits in block["bits"])
    return Block(
        title=f"{bits} · {describe_setting(profile, block)} · {block['form']} form",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )
