"""Make Table 3 of Q-DiT: the sixteen dimensions of VBench in two halves, and in how many of them Q-DiT is better."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.metrics import DIMENSIONS, METRICS, metric_names, shown_on
from qdit.core.run import Run
from qdit.report.data.compare_rows import difference
from qdit.report.data.faces import face_of_table
from qdit.report.data.metrics_json import Row
from qdit.report.data.p_values import holm, p_value
from qdit.report.data.published import PublishedRow, find, method_names, printed_name, read_published
from qdit.report.data.rows import (
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
from qdit.report.render.display import bits_text
from qdit.report.tables.table3_remarks import MINI_VBENCH, VBENCH, remarks

PAPER = (
    "Open-Sora 1.2’s STDiT3 (clips of 2 seconds, whose resolution the paper does not give), rectified flow, 30 steps,"
    " guidance (cfg) 7, VBench’s prompts"
)
WON, WON_OF = 15, 16
"""The paper's statement (Section 6.2): Q-DiT is better than G4W+P4A in this many dimensions."""
WINNER, RIVAL = "q-dit", "g4w+p4a"

FIRST, SECOND = DIMENSIONS[:8], DIMENSIONS[8:]
HALVES = (("First half of the dimensions", FIRST), ("Second half of the dimensions", SECOND))
COUNTED = ("prompts", "clip_flops", "won", "won_certain", "lost_certain")


def extra_columns() -> tuple[str, ...]:
    """Return the columns that only the CSV of clips has."""
    scores = metric_names(lambda metric: metric.of == "clips")
    printed = [name for name in scores if METRICS[name].printed]
    return (
        *scores,
        *(f"published_{name}" for name in printed),
        *(f"difference_{name}" for name in printed),
        *(end for name in scores if METRICS[name].bounded for end in METRICS[name].low_and_high),
        *COUNTED,
    )


def rest_of(*, mini: bool) -> tuple[str, tuple[str, ...]]:
    """Return the title and the columns that follow the dimensions of VBench.

    There are no distances of features if VBench itself, not mini-VBench, scores the clips.
    """
    names = [name for name in shown_on("table3") if name not in DIMENSIONS]
    shown = tuple(name for name in names if mini or not METRICS[name].of_features)
    return f"Totals, distance{'s' if mini else ''}, size", shown


@dataclass(frozen=True)
class Wins:
    """Number of dimensions in which Q-DiT is better or worse than its rival, and how many of them for sure.

    A difference is sure if it is more than chance, by Holm's correction over the dimensions of this pair of rows.
    """

    of: int
    ahead: int
    behind: int
    surely_ahead: int
    surely_behind: int

    @classmethod
    def between(cls, row: Row, rival: Row) -> "Wins":
        """Compare Q-DiT's row with the rival's, in the dimensions that both have."""
        gaps = [gap for name in DIMENSIONS if (gap := difference(row, rival, name)) is not None]
        bounded = [(gap, p_value(gap.value, gap.interval)) for gap in gaps if gap.interval is not None]
        certain = holm([p for _, p in bounded])
        sure = [gap for (gap, _), is_certain in zip(bounded, certain, strict=True) if is_certain]
        return cls(
            of=len(gaps),
            ahead=sum(gap.value > 0 for gap in gaps),
            behind=sum(gap.value < 0 for gap in gaps),
            surely_ahead=sum(gap.value > 0 for gap in sure),
            surely_behind=sum(gap.value < 0 for gap in sure),
        )

    def text(self, winner: str, rival: str) -> str:
        """Text such as `A is ahead of B in 9 of 16 dimensions (3 beyond chance), behind in 5 (1), equal in 2`."""
        equal = self.of - self.ahead - self.behind
        text = f"{winner} is ahead of {rival} in {self.ahead} of {self.of} dimensions"
        text += f" ({self.surely_ahead} beyond chance), behind in {self.behind} ({self.surely_behind})"
        return text + (f", equal in {equal}" if equal else "")


def table3(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    printed = read_published(published / "table3.csv")
    mini = is_mini_vbench(profile, definition)
    blocks = tuple(_block(profile, definition, block, results, printed) for block in definition["blocks"])
    parts = (*HALVES, rest_of(mini=mini))
    return Table(
        name=name,
        title=definition.get("title", "Video generation after quantization (Q-DiT, Table 3)"),
        profile=profile["profile"],
        face=face_of(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol=PAPER,
        shows_bits=True,
        blocks=blocks,
        metrics=tuple(metric for _, metrics in parts for metric in metrics),
        extra=extra_columns(),
        summary=tuple(_summary(blocks, printed)),
        remarks=tuple(remarks(blocks, printed, name, mini=mini)),
        samples_are="clip",
        parts=parts,
    )


def is_mini_vbench(profile: Mapping[str, Any], definition: Mapping[str, Any]) -> bool:
    """Return whether mini-VBench, not VBench, scores the table's clips."""
    models = (profile["models"][profile["settings"][block["setting"]]["model"]] for block in definition["blocks"])
    return any("instruments" in model for model in models)


def face_of(profile: Mapping[str, Any], definition: Mapping[str, Any]) -> str:
    """Return the table's face (which data it is about), and whether VBench or mini-VBench scores the clips."""
    return f"{face_of_table(profile, definition)}; {MINI_VBENCH if is_mini_vbench(profile, definition) else VBENCH}"


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
        row["face"] = face_of(profile, definition)
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


def _beside(printed: list[PublishedRow], key: Run) -> Row:
    """The printed cells of a method at these bits; cells that our copy lacks are blank."""
    bits = {"weight_bits": key.weight_bits, "activation_bits": key.activation_bits}
    printed_row = find(printed, method=method_names().get(key.label), **bits)
    if printed_row is None:
        return {}
    return {f"published_{name}": printed_row.get(name) for name in DIMENSIONS} | {
        "published_method": printed_row["method"]
    }


def _pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """(Q-DiT, G4W+P4A) at each of the bits at which both were measured."""
    by_label = {(row["label"], bits_text(row)): row for row in rows if is_measured(row)}
    return [
        (row, by_label[RIVAL, bits])
        for (label, bits), row in by_label.items()
        if label == WINNER and (RIVAL, bits) in by_label
    ]


def _summary(blocks: tuple[Block, ...], printed: list[PublishedRow]) -> list[str]:
    """One sentence for each pair of rows, beside the paper's statement."""
    names = printed_name(WINNER), printed_name(RIVAL)
    sentences = []
    for block in blocks:
        for row, rival in _pairs(list(block.rows)):
            text = Wins.between(row, rival).text(*names)
            sentences.append(f"In the {row['form']} form at {bits_text(row)}, {text}.")
    ours, other = ({**row} for row in (_printed(printed, WINNER), _printed(printed, RIVAL)))
    known = [name for name in DIMENSIONS if ours.get(name) is not None and other.get(name) is not None]
    better = sum(float(str(ours[name])) > float(str(other[name])) for name in known)
    sentences.append(
        f"In the paper at W4A8, {names[0]} is ahead of {names[1]} in {WON} of {WON_OF} dimensions of VBench; of the"
        f" {len(known)} whose numbers are known to us, in {better}."
    )
    return sentences


def _printed(printed: list[PublishedRow], label: str) -> PublishedRow:
    return find(printed, method=printed_name(label), weight_bits=4, activation_bits=8) or {}
