"""Rank methods by paired differences: for every pair of rows, whether the difference is more than chance.

All rows of a block share their noise, so the interval of a difference is narrower than the intervals of the two rows
suggest.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from qdit.core.number_text import significant
from qdit.core.ranking import EQUAL, damage_of, is_equal, ranking_metric, value_text
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.multiplicity import Separation
from qdit.report.data.rows import Block, Table
from qdit.report.data.standings import ranked_rows
from qdit.report.pages.leaderboard import interval_text, ranks
from qdit.report.render.display import bits_text
from qdit.report.render.fragments import number

BETTER, WORSE, CHANCE, UNSURE, SELF = "<", ">", "≈", "?", "·"
MEANINGS = {
    BETTER: "certainly less damage",
    WORSE: "certainly more damage",
    CHANCE: "no further apart than chance explains",
    UNSURE: "no interval: a run without resampled values",
}


@dataclass(frozen=True)
class Mark:
    """One comparison of two rows: a sign, and as text the difference with its interval."""

    sign: str
    about: str


@dataclass(frozen=True)
class Ranked:
    """A row with its rank (a range if chance allows several), its value, and a mark for each compared row."""

    row: Row
    name: str
    rank: str
    value: str
    interval: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Ranking:
    """The quantized rows of one block at equal bits, from the least damage to the most."""

    block: Block
    bits: str
    ranked: tuple[Ranked, ...]

    @property
    def title(self) -> str:
        """Title of the ranking, such as `W4A8, digits-cfg1.0-s20, natural form`."""
        row = self.ranked[0].row
        return f"{self.bits}, {row['setting']}, {row['form']} form"

    @property
    def certain(self) -> int:
        """Number of pairs of rows that differ by more than chance."""
        return sum(mark.sign == BETTER for entry in self.ranked for mark in entry.marks)

    @property
    def pairs(self) -> int:
        """Number of all pairs of rows."""
        return len(self.ranked) * (len(self.ranked) - 1) // 2

    @property
    def first_is_certain(self) -> bool:
        """Whether the first row is better than every other row by more than chance."""
        return all(mark.sign in (BETTER, SELF) for mark in self.ranked[0].marks)


def rankings(table: Table) -> list[Ranking]:
    """Return a ranking for each block and bits with at least two measured quantized rows."""
    return [ranking for block in table.blocks for ranking in _of_block(block)]


def _of_block(block: Block) -> Iterable[Ranking]:
    rows = ranked_rows(block)
    for bits in dict.fromkeys(map(bits_text, rows)):
        rivals = sorted((row for row in rows if bits_text(row) == bits), key=damage_of)
        if len(rivals) > 1:
            separation = Separation(rivals, ranking_metric().name)
            yield Ranking(block, bits, tuple(_ranked(row, rivals, separation) for row in rivals))


def _ranked(row: Row, rivals: list[Row], separation: Separation) -> Ranked:
    return Ranked(
        row=row,
        name=_name(row),
        rank=str(ranks(row, rivals, separation)["rank"]),
        value=value_text(row, unit=False),
        interval=number(interval_text(row, ranking_metric().name) or ""),
        marks=tuple(_mark(row, other, separation) for other in rivals),
    )


def _name(row: Row) -> str:
    """The method's name, without the bits that all rows of the ranking share."""
    return str(row["short"]).removeprefix(f"{bits_text(row)} ")


def _mark(row: Row, other: Row, separation: Separation) -> Mark:
    if row is other:
        return Mark(SELF, "")
    gap = difference(row, other, ranking_metric().name)
    names = f"{_name(row)} − {_name(other)}"
    if gap is None:  # one of them equals full precision
        sign = CHANCE if not separation.apart(row, other) else BETTER if damage_of(row) < damage_of(other) else WORSE
        return Mark(sign, f"{_name(row if is_equal(row) else other)} is {EQUAL}")
    if gap.interval is None:
        return Mark(UNSURE, f"{names}: {number(significant(gap.value))}, no interval")
    sign = CHANCE if not separation.apart(row, other) else BETTER if ranking_metric().damage(gap.value) < 0 else WORSE
    value, low, high = (number(significant(value)) for value in (gap.value, *gap.interval))
    return Mark(sign, f"{names}: {value} ({low} … {high})")
