"""Time several candidates in one process. They run alternately, so that clock rate and cache are alike for all.

The CPU time of the process is measured, because on a shared machine wall time includes the time of other processes. CPU
time adds up the time of all threads. So all candidates must compute with one thread.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import geometric_mean, quantiles


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one call over several repeats: smallest, median and spread.

    The spread is (third quartile − first quartile) ÷ median.
    """

    minimum: float
    median: float
    spread: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Summarize at least two measurements of one call."""
        low, middle, high = quantiles(seconds, n=4, method="inclusive")
        return cls(min(seconds), middle, (high - low) / middle if middle else 0.0, len(seconds))

    def to_dict(self) -> dict[str, float]:
        """The fields as a plain dictionary, for JSON."""
        return asdict(self)


def interleaved(
    candidates: Mapping[str, Callable[[], object]], repeats: int, *, clock: Callable[[], float] = time.process_time
) -> dict[str, Timing]:
    """Time every candidate `repeats` times (at least 2), alternately. A first round is run and not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(max(2, repeats) + 1):
        for name, call in candidates.items():
            start = clock()
            call()
            if turn:
                seconds[name].append(clock() - start)
    return {name: Timing.of(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Ratio:
    """Speed of a candidate divided by that of a rival: by the smallest times, and by the medians.

    For several layers it is the geometric mean of the layers' ratios.
    """

    minima: float
    medians: float
    spread: float

    @classmethod
    def of(cls, pairs: list[tuple[Timing, Timing]]) -> "Ratio":
        """Geometric means of the ratios over pairs (timing of the rival, timing of the candidate).

        The spread is the largest spread of all timings.
        """
        return cls(
            geometric_mean(rival.minimum / candidate.minimum for rival, candidate in pairs),
            geometric_mean(rival.median / candidate.median for rival, candidate in pairs),
            max(timing.spread for pair in pairs for timing in pair),
        )

    def to_dict(self) -> dict[str, float]:
        """The fields as a plain dictionary, for JSON."""
        return asdict(self)
