"""Differences between two rows, with confidence intervals; both rows were measured on the same noise."""

import operator
from dataclasses import dataclass

from qdit.core.intervals import centred, interval
from qdit.report.data.metrics_json import Row
from qdit.report.data.values import Quantity, combine


@dataclass(frozen=True)
class Difference:
    """Difference a − b of one metric and its 95 % interval. The interval is None if a run has no resampled values."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def is_chance(self) -> bool | None:
        """Whether the interval includes zero. None without an interval."""
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]


def difference(a: Row, b: Row, metric: str) -> Difference | None:
    """Difference a − b of a metric. None if one of the rows has no number."""
    if a.get(metric) is None or b.get(metric) is None:
        return None
    gap = combine(operator.sub, quantity(a, metric), quantity(b, metric))
    assert isinstance(gap, Quantity)
    return Difference(gap.value, None if gap.samples is None else interval(gap.samples))


def quantity(row: Row, metric: str) -> Quantity:
    """A row's number, with its resampled values if they exist."""
    value, replicates = float(row[metric]), row.get("replicates")
    if replicates is None or metric not in replicates.values:
        return Quantity(value, measured=True)
    return Quantity(value, centred(metric, value, replicates.values[metric]), replicates.pairing, measured=True)
