"""Table 3 of Q-DiT: VBench's sixteen dimensions of clips, in two halves, and how many of them Q-DiT wins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.dimensions import DIMENSIONS, TOTALS
from qdit.tables.compare_rows import difference
from qdit.tables.display import bits_text
from qdit.tables.published import METHOD_NAMES, PublishedRow, find, read_published
from qdit.tables.results import Row, RunKey
from qdit.tables.rows import (
    Block,
    Table,
    describe_setting,
    fitted_labels,
    group_text,
    is_measured,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)

MINI_VBENCH = "mini-VBench (moving digits), not VBench’s scores"
PAPER = "Open-Sora 1.2’s STDiT3 (51 frames of 144×256), rectified flow, 30 steps, guidance (cfg) 7, VBench’s prompts"
WON, WON_OF = 15, 16
"""What the paper's text says Q-DiT wins against G4W+P4A (Section 6.2)."""
WINNER, RIVAL = "q-dit", "g4w+p4a"

FIRST, SECOND = DIMENSIONS[:8], DIMENSIONS[8:]
PARTS = (
    ("First half of the dimensions", FIRST),
    ("Second half of the dimensions", SECOND),
    ("Totals, distances, size", (*TOTALS, "mfvd", "fd_fp", "mse_fp", "size_mb")),
)
SCORES = (*DIMENSIONS, *TOTALS, "mfvd")
EXTRA = (
    *SCORES,
    *(f"published_{name}" for name in DIMENSIONS),
    *(f"difference_{name}" for name in DIMENSIONS),
    *(f"{name}_{end}" for name in SCORES for end in ("low", "high")),
    *("prompts", "clip_flops", "won", "won_certain", "lost_certain"),
)
"""Columns of the CSV beyond those of every table."""


@dataclass(frozen=True)
class Wins:
    """Of so many dimensions: where one method is ahead, behind, and how many of each are more than chance."""

    of: int
    ahead: int
    behind: int
    surely_ahead: int
    surely_behind: int

    @classmethod
    def between(cls, row: Row, rival: Row) -> "Wins":
        """Q-DiT's row against the rival's, in the dimensions that both have."""
        gaps = [gap for name in DIMENSIONS if (gap := difference(row, rival, name)) is not None]
        sure = [gap for gap in gaps if gap.is_chance is False]
        return cls(
            of=len(gaps),
            ahead=sum(gap.value > 0 for gap in gaps),
            behind=sum(gap.value < 0 for gap in gaps),
            surely_ahead=sum(gap.value > 0 for gap in sure),
            surely_behind=sum(gap.value < 0 for gap in sure),
        )

    @property
    def text(self) -> str:
        """`ahead in 9 of 16 dimensions (3 beyond chance), behind in 5 (1), equal in 2`."""
        equal = self.of - self.ahead - self.behind
        text = f"ahead in {self.ahead} of {self.of} dimensions ({self.surely_ahead} beyond chance)"
        return f"{text}, behind in {self.behind} ({self.surely_behind})" + (f", equal in {equal}" if equal else "")


def table3(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """The table `name` of a profile; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    printed = read_published(published / "table3.csv")
    blocks = tuple(_block(profile, definition, block, results, printed) for block in definition["blocks"])
    return Table(
        name=name,
        title=definition.get("title", "Video generation after quantization (Q-DiT, Table 3)"),
        profile=profile["profile"],
        face=face_of(profile),
        miniature=is_miniature(profile),
        paper_protocol=PAPER,
        shows_bits=True,
        blocks=blocks,
        metrics=tuple(metric for _, metrics in PARTS for metric in metrics),
        extra=EXTRA,
        summary=tuple(_summary(blocks, printed)),
        remarks=tuple(_remarks(blocks, printed, name)),
        samples_are="clip",
        parts=PARTS,
    )


def face_of(profile: Mapping[str, Any]) -> str:
    """What stands on the table's face: also that these are no scores of VBench."""
    return f"{profile['face']}; {MINI_VBENCH}"


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    printed: list[PublishedRow],
) -> Block:
    fitted, rows = fitted_labels(definition, block), []
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=None)
        row |= _beside(printed, key) | {"clips": True, "short": f"{key.bits.upper()} {row['short']}"}
        row["face"] = face_of(profile)
        if row["group_size"] is not None:
            row["detail"] = group_text(row)
        for dimension in DIMENSIONS:
            ours, paper = row.get(dimension), row.get(f"published_{dimension}")
            row[f"difference_{dimension}"] = None if ours is None or paper is None else round(ours - paper, 10)
        rows.append(row)
    for row, rival in _pairs(rows):
        wins = Wins.between(row, rival)
        row |= {"won": wins.ahead, "won_certain": wins.surely_ahead, "lost_certain": wins.surely_behind}
    appendix = "" if block["form"] == "natural" else " · appendix"
    return Block(
        title=f"{block['form']} form · {describe_setting(profile, block)}{appendix}",
        about=f"{block['setting']}, scope {block['scope']}",
        rows=with_differences(rows),
    )


def _beside(printed: list[PublishedRow], key: RunKey) -> Row:
    """The printed cells of a method at these bits; those that we do not know stay blank."""
    bits = {"weight_bits": key.weight_bits, "activation_bits": key.activation_bits}
    found = find(printed, method=METHOD_NAMES.get(key.label), **bits)
    if found is None:
        return {}
    return {f"published_{name}": found.get(name) for name in DIMENSIONS} | {"published_method": found["method"]}


def _pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """(Q-DiT, G4W+P4A) at each of the bits at which both were measured."""
    own = {(row["label"], bits_text(row)): row for row in rows if is_measured(row)}
    return [(row, own[RIVAL, bits]) for (label, bits), row in own.items() if label == WINNER and (RIVAL, bits) in own]


def _summary(blocks: tuple[Block, ...], printed: list[PublishedRow]) -> list[str]:
    """One sentence for each pair of rows, beside what the paper says."""
    names = f"{METHOD_NAMES[WINNER]} against {METHOD_NAMES[RIVAL]}"
    found = []
    for block in blocks:
        for row, rival in _pairs(list(block.rows)):
            text = Wins.between(row, rival).text
            found.append(f"{block.title.split(' · ')[0]}, {bits_text(row)}: {names} is {text}.")
    ours, other = ({**row} for row in (_printed(printed, WINNER), _printed(printed, RIVAL)))
    known = [name for name in DIMENSIONS if ours.get(name) is not None and other.get(name) is not None]
    better = sum(float(str(ours[name])) > float(str(other[name])) for name in known)
    found.append(
        f"Published, W4A8: {names} is ahead in {WON} of {WON_OF} dimensions of VBench; of the {len(known)} whose"
        f" numbers are known to us, in {better}."
    )
    return found


def _printed(printed: list[PublishedRow], label: str) -> PublishedRow:
    return find(printed, method=METHOD_NAMES[label], weight_bits=4, activation_bits=8) or {}


def _remarks(blocks: tuple[Block, ...], printed: list[PublishedRow], name: str) -> list[str]:
    unknown = [dimension for dimension in DIMENSIONS if all(row.get(dimension) is None for row in printed)]
    remarks = [
        "Scores are of mini-VBench: VBench’s formulas with small networks that know moving digits (docs/video.md). They"
        " are no scores of VBench, and no total or rank beside VBench’s means anything.",
        "Totals: VBench’s weights, each dimension between pixel noise (0) and real clips of held-out digits (1) of the"
        " same prompts. mFVD: Fréchet distance of clip features to those real clips.",
        "Ahead or behind: by the numbers; beyond chance: the 95 % interval of the paired difference, clips resampled,"
        " leaves out 0. Each dimension has an interval of its own; of sixteen, about one leaves out 0 by chance.",
    ]
    remarks.append("In an STDiT3 a block has seven linears: qkv, projection, three of cross-attention, two of the MLP.")
    if unknown:
        remarks.append(
            f"The published numbers of {len(unknown)} dimensions are not known to us and stay blank:"
            f" {', '.join(map(str, unknown)).replace('_', ' ')}."
        )
    budgets = {
        (row["prompts"], row["images"], row["clip_flops"]) for block in blocks for row in block.rows if _told(row)
    }
    for prompts, clips, flops in sorted(budgets):
        remarks.append(
            f"Budget: {clips} clips a row ({prompts} prompts, {clips / prompts:g} of each);"
            f" {flops / 1e9:.1f} GFLOP a clip, {clips * flops / 1e12:.2f} TFLOP a row."
        )
    return [*remarks, f"The clips shown are also MP4 files, in {name}-clips/."]


def _told(row: Row) -> bool:
    """Whether a row says what it cost."""
    return is_measured(row) and bool(row.get("prompts")) and bool(row.get("clip_flops"))
