"""The metric by which tables, ranks, dot plots, headlines and the leaderboard order quantized rows.

One rule for all tables: the metric of the registry that says why it ranks (`Metric.ranks`). Images and clips both have
it, so no table needs another one. The power study chose it (docs/power-study.md). Only the registry says which metric
it is, what its direction is, and how a reader is told about it.
"""

import math
from collections.abc import Mapping
from typing import Any

from qdit.core.metrics import METRICS, Metric
from qdit.core.number_text import significant

ERROR = "mse_fp"
"""The metric that is 0 if and only if all samples equal those of full precision."""
EQUAL = "equal to full precision"
LARGEST_RATIO = 1000.0
"""Ratios from here on are written without decimals."""


def ranking_metric() -> Metric:
    """Return the metric by which rows are ranked."""
    return next(metric for metric in METRICS.values() if metric.ranks)


def why_it_ranks() -> str:
    """Return one sentence for readers: which metric ranks the rows, and why."""
    return f"Rows are ranked by {ranking_metric().title}: {ranking_metric().ranks}."


def is_equal(values: Mapping[str, Any]) -> bool:
    """Return whether all samples of a run equal those of full precision. `values` holds its metrics by name."""
    return values.get(ERROR) == 0


def known_value(values: Mapping[str, Any], metric: Metric) -> float | None:
    """Return the value of a run in a metric; None if it has none.

    It is infinite if the samples equal those of full precision and the metric has no finite value for them.
    """
    value = values.get(metric.name)
    if value is None:
        return metric.perfect if is_equal(values) and math.isinf(metric.perfect) else None
    return float(value)


def ranking_value(values: Mapping[str, Any]) -> float | None:
    """Return the value by which a run is ranked, from its metrics by name; None if it has none."""
    return known_value(values, ranking_metric())


def damage_of(values: Mapping[str, Any]) -> float:
    """Return a number that grows with the damage of a run; ∞ if the run has no value by which it is ranked."""
    value = ranking_value(values)
    return math.inf if value is None else ranking_metric().damage(value)


def axis_words() -> str:
    """Return how to read a horizontal axis of the ranking metric: its scale, and which side is better."""
    metric = ranking_metric()
    scale = ", logarithmic" if metric.ratios else ""
    return f"{scale}; {'left' if metric.lower_is_better else 'right'} is better"


def value_text(values: Mapping[str, Any], *, unit: bool = True) -> str:
    """Write the value by which a run is ranked, such as `32.41 dB`. The run must have one."""
    value, metric = ranking_value(values), ranking_metric()
    assert value is not None
    if math.isinf(value):
        return EQUAL if unit else "equal"
    return (metric.text(value) if unit else metric.write(value)).replace("-", "−")


def gap_text(metric: Metric, value: float, other: float) -> str:
    """Write how `value` compares with `other`: `2.50 times as large`; without ratios `1.20 dB lower`, or `equal`."""
    if metric.ratios and other > 0:
        ratio = value / other
        return f"{ratio:.2f} times as large" if ratio < LARGEST_RATIO else f"{significant(ratio)} times as large"
    amount = metric.write(abs(value - other))
    if float(amount) == 0:
        return "equal"
    return f"{amount} {metric.unit} {'lower' if value < other else 'higher'}".replace("  ", " ")
