"""Compute differences between two rows with confidence intervals. Both rows were measured on the same noise."""

import operator
from dataclasses import dataclass

import numpy as np

from qdit.core.intervals import centred
from qdit.core.run import FULL_PRECISION_METHOD
from qdit.core.run_to_run import Limits, RunToRun
from qdit.report.data.metrics_json import Row
from qdit.report.data.values import Quantity, combine


@dataclass(frozen=True)
class Difference:
    """The difference a − b of two rows in one metric, and its 95 % interval (None if a row has no resampled values).

    If both rows have replicates, the interval includes the variation between replicates.
    """

    value: float
    limits: Limits | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the 95 % interval; None without an interval."""
        return None if self.limits is None else self.limits.ends

    @property
    def is_chance(self) -> bool | None:
        """Whether the interval includes zero. None without an interval."""
        return None if self.limits is None else self.limits.includes_zero


def difference(a: Row, b: Row, metric: str) -> Difference | None:
    """Return the difference a − b of two rows in one metric. None if one of the rows has no number."""
    if a.get(metric) is None or b.get(metric) is None:
        return None
    gap = combine(operator.sub, quantity(a, metric), quantity(b, metric))
    assert isinstance(gap, Quantity)
    return Difference(gap.value, gap.limits)


def quantity(row: Row, metric: str) -> Quantity:
    """Return the number of a row with its resampled values, and with its value in each replicate if there are any."""
    value, resamples = float(row[metric]), row.get("resamples")
    if resamples is None or metric not in resamples.values:
        return Quantity(value, measured=True)
    samples = centred(metric, value, resamples.values[metric])
    runs, images = runs_of(row, metric, samples), row.get("images")
    return Quantity(value, samples, resamples.pairing, measured=True, runs=runs, images=images)


def runs_of(row: Row, metric: str, samples: np.ndarray) -> RunToRun | None:
    """Return the values of a row in each replicate; None without replicates.

    Full precision has no random draws, so its single value is used for every replicate.
    """
    if row.get("method") == FULL_PRECISION_METHOD:
        return RunToRun(np.array([float(row[metric])]), samples[None])
    known: RunToRun | None = (row.get("run_to_run") or {}).get(metric)
    return known
