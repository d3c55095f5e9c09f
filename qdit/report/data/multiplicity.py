"""Correct for many comparisons: which of many differences are more than chance (p-values: `qdit.report.data.p_values`).

**Ranks: Holm (1979).** The family is all pairs of rows at equal bits in a block, for one metric. A rank is wrong if one
of its comparisons is wrong. So the chance of even one wrong comparison in a family is kept below 5 %.

**Claims: Benjamini and Hochberg (1995).** The family is all claims that are compared on the runs of a profile. There
are dozens of claims, and a reader looks at each of them alone. So the expected share of wrong verdicts among the
decided ones is kept below 5 %. A claim of n comparisons has the p-value of a partial conjunction (Benjamini and Heller
2008): the largest p-value if all n must be true, n times the smallest if one of n is enough.
"""

from collections.abc import Sequence
from itertools import combinations, permutations

from qdit.core.metrics import METRICS
from qdit.core.ranking import is_equal
from qdit.report.data.compare_rows import Difference, difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.p_values import LEVEL, holm, p_value


class Separation:
    """Says which pairs of rows differ in a metric by more than chance, by Holm's correction over all pairs of the rows.

    A pair without an interval counts as different if its numbers differ; the correction does not count such a pair. A
    row whose samples equal full precision's differs from every other row, also where the metric has no number for it.
    """

    def __init__(self, rows: Sequence[Row], metric: str) -> None:
        gaps: dict[frozenset[int], Difference] = {}
        for a, b in combinations(rows, 2):
            if (gap := difference(a, b, metric)) is not None:
                gaps[frozenset((id(a), id(b)))] = gap
        bounded = {
            pair: p_value(gap.value, gap.limits.ends, gap.limits.degrees)
            for pair, gap in gaps.items()
            if gap.limits is not None
        }
        decided = dict(zip(bounded, holm(list(bounded.values())), strict=True))
        self._apart = {pair: decided.get(pair, True) and gap.value != 0 for pair, gap in gaps.items()}
        for a, b in permutations(rows, 2):
            if METRICS[metric].paired and is_equal(a) and not is_equal(b) and b.get(metric) is not None:
                self._apart.setdefault(frozenset((id(a), id(b))), True)
        self.comparisons = len(bounded)
        """Size of the family."""
        self.alone = sum(p < LEVEL for p in bounded.values())
        """Number of pairs that one comparison by itself would call apart."""
        self.controlled = sum(decided.values())
        """Number of pairs that are apart."""
        self._by_images = {pair for pair, gap in gaps.items() if gap.limits is not None and gap.limits.by_images_alone}

    def apart(self, a: Row, b: Row) -> bool:
        """Return whether two rows differ by more than chance; False if one of them has no number."""
        return self._apart.get(frozenset((id(a), id(b))), False)

    def by_images_alone(self, a: Row, b: Row) -> bool:
        """Return whether two rows differ by the interval from images, but not with the variation between replicates.

        Both are intervals of this single comparison, without correction for many comparisons.
        """
        return frozenset((id(a), id(b))) in self._by_images
