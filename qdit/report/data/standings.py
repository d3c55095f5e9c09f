"""Rank the quantized rows of a block at equal bits, in our order and in the paper's order.

Our order is that of the ranking metric (`qdit.core.ranking`). The paper's order is that of its printed FID. All rows of
a block have the same noise. `qdit.report.data.multiplicity` says which rows differ by more than chance, from the 95 %
intervals of all paired differences. Without intervals the numbers alone decide.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from qdit.core.ranking import damage_of, is_equal, ranking_metric, ranking_value
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.multiplicity import Separation
from qdit.report.data.rows import Block, is_full_precision
from qdit.report.data.values import IMAGES_ALONE

PRINTED = "published_fid"
"""The printed number that gives the paper's order; lower is better."""

BEST, FIRST, WORSE = "best", "first, not certainly", "worse than the best"
TIED = "not certainly worse than the best"
TIED_BY_RUNS = f"{TIED}: {IMAGES_ALONE}"
"""Verdicts on a row: better than all others by more than chance; first, but the distance to another row can be chance;
its distance to the first can be chance (or only with run-to-run spread); worse than the first by more than chance."""


@dataclass(frozen=True)
class Agreement:
    """How well the paper's order of the methods agrees with our numbers, with Spearman's ρ of the two orders.

    Each pair of methods is in `same` (a count), in `turned` (our order is the reverse), or in `open` (cannot be told).
    """

    methods: int
    same: int
    turned: tuple[tuple[str, str], ...]
    open: tuple[tuple[str, str], ...]
    spearman: float

    @property
    def pairs(self) -> int:
        """Number of all pairs of methods that the paper orders."""
        return self.same + len(self.turned) + len(self.open)


@dataclass(frozen=True)
class Standing:
    """Our rank and the paper's rank of a row, among the rows that have both a measured and a printed number.

    If the paper prints fewer than two numbers, `rank` counts all rows.
    """

    verdict: str
    rank: int | None
    paper_rank: int | None

    @property
    def moved(self) -> int | None:
        """Our rank minus the paper's rank. A negative number means that the row is better here."""
        return None if self.rank is None or self.paper_rank is None else self.rank - self.paper_rank


@dataclass(frozen=True)
class Contest:
    """The measured quantized rows of a block at equal bits, from the least damage to the most; at least one row."""

    block: Block
    bits: str
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """The row with the least damage, by our numbers."""
        return self.rows[0]

    @cached_property
    def separation(self) -> Separation:
        """Says which pairs of the rows differ by more than chance."""
        return Separation(self.rows, ranking_metric().name)

    @property
    def tied(self) -> tuple[Row, ...]:
        """Rows whose difference to the first row can be chance."""
        return tuple(row for row in self.rows[1:] if not self.separation.apart(row, self.first))

    @property
    def has_intervals(self) -> bool:
        """Whether the paired differences between rows have intervals. A row equal to full precision needs none."""
        others = () if is_equal(self.first) else self.rows[1:]
        gaps = (difference(row, self.first, ranking_metric().name) for row in others)
        return all(gap is not None and gap.interval is not None for gap in gaps)

    @property
    def printed(self) -> tuple[Row, ...]:
        """Rows with a printed FID, in our order; empty if the printed numbers come from several tables."""
        return tuple(row for row in self.rows if self.block.one_print and row.get(PRINTED) is not None)

    def standing(self, row: Row) -> Standing:
        """Return the ranks of one row, and the verdict on it: best, not certainly worse than the best, or worse."""
        verdict = WORSE if self.separation.apart(row, self.first) else TIED
        if verdict == TIED and self.separation.by_images_alone(row, self.first):
            verdict = TIED_BY_RUNS
        if row is self.first:
            verdict = FIRST if self.tied else BEST
        if len(self.printed) < 2:
            return Standing(verdict if len(self.rows) > 1 else "", _place(self.rows, row, damage_of), None)
        if row.get(PRINTED) is None:
            return Standing(verdict, None, None)
        return Standing(verdict, _place(self.printed, row, damage_of), _place(self.printed, row, printed_damage))

    def agreement(self) -> Agreement | None:
        """Return how well the paper's order agrees with ours. None if the paper orders no pair of the rows."""
        same, turned, unclear = 0, [], []
        for better, worse in combinations(self.printed, 2):
            if better[PRINTED] == worse[PRINTED]:
                continue
            names = (short_name(better), short_name(worse))
            if not self.separation.apart(better, worse):
                unclear.append(names)
            elif better[PRINTED] < worse[PRINTED]:
                same += 1
            else:
                turned.append(names)
        if not same + len(turned) + len(unclear):
            return None
        return Agreement(len(self.printed), same, tuple(turned), tuple(unclear), self._spearman())

    def _spearman(self) -> float:
        """Correlation of our ranks and the paper's; equal numbers share the mean of their ranks."""
        ours, paper = (_mean_ranks(self.printed, damage) for damage in (damage_of, printed_damage))
        middle = (len(ours) + 1) / 2
        shared = sum((a - middle) * (b - middle) for a, b in zip(ours, paper, strict=True))
        spread = [sum((a - middle) ** 2 for a in ranks) for ranks in (ours, paper)]
        return shared / (spread[0] * spread[1]) ** 0.5 if spread[0] and spread[1] else 0.0


def contests(block: Block) -> list[Contest]:
    """Return the measured quantized rows of a block as one Contest for each bit width, in the block's order."""
    return list(_contests(block))


def _contests(block: Block) -> Iterator[Contest]:
    rows = ranked_rows(block)
    for bits in dict.fromkeys(bits_of(row) for row in rows):
        rivals = [row for row in rows if bits_of(row) == bits]
        yield Contest(block, bits, tuple(sorted(rivals, key=damage_of)))


def ranked_rows(block: Block) -> list[Row]:
    """Return the quantized rows of a block that have a value by which they are ranked."""
    return [row for row in block.rows if "key" in row and not is_full_precision(row) and is_ranked(row)]


def is_ranked(row: Row) -> bool:
    """Return whether a row has a value by which it is ranked."""
    return ranking_value(row) is not None


def standings(block: Block) -> list[Standing | None]:
    """Return the Standing of each row of a block. None for full precision and for rows without a number."""
    places: dict[int, Standing] = {}
    for contest in contests(block):
        places |= {id(row): contest.standing(row) for row in contest.rows}
    return [places.get(id(row)) for row in block.rows]


def bits_of(row: Row) -> str:
    """Write the bits of a row: `W4A8`."""
    return f"W{row['weight_bits']}A{row['activation_bits']}"


def short_name(row: Row) -> str:
    """Return the short name of a row, without its bits."""
    return str(row["short"]).removeprefix(f"{bits_of(row)} ")


def printed_damage(row: Row) -> float:
    """Return the FID that the paper prints for a row; it gives the paper's order."""
    return float(row[PRINTED])


def _place(rows: tuple[Row, ...], row: Row, damage: Callable[[Row], float]) -> int:
    """1 + the number of rows with less damage."""
    return 1 + sum(damage(other) < damage(row) for other in rows)


def _mean_ranks(rows: tuple[Row, ...], damage: Callable[[Row], float]) -> list[float]:
    values = [damage(row) for row in rows]
    return [(sum(v < value for v in values) + sum(v <= value for v in values) + 1) / 2 for value in values]
