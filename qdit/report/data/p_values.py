"""Compute p-values of differences from their 95 % intervals, and decide which of many differences are more than chance.

The length of the interval from the difference towards 0 is taken as 1.96 standard deviations of a normal distribution,
or as the quantile of Student's distribution if replicates have few degrees of freedom. So p < 0.05 exactly if the
interval excludes 0, and levels below 5 % need no more resamples than the interval has. `qdit.report.data.multiplicity`
says what the two corrections are used for.
"""

import math
from collections.abc import Sequence

from qdit.core.run_to_run import student_p, student_quantile

LEVEL = 0.05


def p_value(gap: float, limits: tuple[float, float], degrees: float = math.inf) -> float:
    """Return the two-sided p-value of a difference `gap` with the 95 % interval `limits`.

    If the interval has no width, p is 0, or 1 for a difference of 0. `degrees` are the degrees of freedom of Student's
    distribution with which the interval was computed (`qdit.core.run_to_run`).
    """
    low, high = limits
    if low == high:
        return 0.0 if low else 1.0
    reach = gap - low if gap > 0 else high - gap
    if reach <= 0:  # the value lies at the border of its interval
        return 1.0 if low <= 0 <= high else 0.0
    return student_p(student_quantile(degrees) * abs(gap) / reach, degrees)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Return for each difference whether it is more than chance; the chance of any wrong decision stays below `level`.

    The smallest of m p-values is compared with level / m, the next with level / (m − 1), until a p-value is not
    smaller. That p-value and all larger ones count as chance.
    """
    decided = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] >= level / (len(p_values) - rank):
            break
        decided[index] = True
    return decided


def benjamini_hochberg(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Return for each difference whether it is more than chance; the expected share of wrong ones is below `level`.

    The k-th smallest of m p-values is compared with k · level / m. All p-values up to the largest k that is below count
    as more than chance.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    last = max((k for k, i in enumerate(order, start=1) if p_values[i] < k * level / len(order)), default=0)
    decided = [False] * len(p_values)
    for index in order[:last]:
        decided[index] = True
    return decided


def partial_conjunction(p_values: Sequence[float], needed: int) -> float:
    """Return the p-value of “at least u of n differences are real”: (n − u + 1) p₍ᵤ₎ (Benjamini, Heller 2008).

    u is `needed`, and p₍ᵤ₎ the u-th smallest p-value.
    """
    return min(1.0, (len(p_values) - needed + 1) * sorted(p_values)[needed - 1])
