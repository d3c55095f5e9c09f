"""p-values of differences from their 95 % intervals, and which of many are more than chance.

The part of the interval between the difference and the end towards 0 is read as 1.96 standard deviations of a normal
distribution, or as the quantile of Student's distribution if replicates have few degrees of freedom. So p < 0.05
exactly if the interval excludes 0, and smaller levels need no more resamples than the interval has.
`qdit.report.data.multiplicity` says what the two corrections are used for.
"""

import math
from collections.abc import Sequence

from qdit.core.run_to_run import student_p, student_quantile

LEVEL = 0.05


def p_value(gap: float, limits: tuple[float, float], degrees: float = math.inf) -> float:
    """Two-sided p-value of a difference with its 95 % interval; without any spread it is 0, or 1 for no difference.

    `degrees` are those of Student's distribution of the interval (`qdit.core.run_to_run`).
    """
    low, high = limits
    if low == high:
        return 0.0 if low else 1.0
    reach = gap - low if gap > 0 else high - gap
    if reach <= 0:  # the value lies at the border of its interval
        return 1.0 if low <= 0 <= high else 0.0
    return student_p(student_quantile(degrees) * abs(gap) / reach, degrees)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which differences are more than chance, if the chance of one wrong decision is to stay below `level`.

    The smallest p-value is compared with level / m, the next with level / (m − 1), up to the first that is not smaller.
    """
    decided = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] >= level / (len(p_values) - rank):
            break
        decided[index] = True
    return decided


def benjamini_hochberg(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which differences are more than chance, if the expected share of wrong decisions is to stay below `level`.

    All are, up to the largest rank k whose p-value is below k · level / m.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    last = max((k for k, i in enumerate(order, start=1) if p_values[i] < k * level / len(order)), default=0)
    decided = [False] * len(p_values)
    for index in order[:last]:
        decided[index] = True
    return decided


def partial_conjunction(p_values: Sequence[float], needed: int) -> float:
    """p-value of “at least `needed` of these differences are real”: (n − u + 1) p₍ᵤ₎ (Benjamini and Heller 2008)."""
    return min(1.0, (len(p_values) - needed + 1) * sorted(p_values)[needed - 1])
