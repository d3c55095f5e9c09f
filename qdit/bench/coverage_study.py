"""Coverage study: count how often 95 % intervals contain the true difference of two rows, in simulated tables.

A simulated table has several methods at one setting. Image i has a displacement (difference) from full precision,

    x_mri = μ_m + noise_i + method_mi + run_mr + mixed_mri,

for method m and replicate r: `noise` is shared by all methods, because they sample from the same noise; `method`
belongs to one method, `run` to one replicate of it, and `mixed` says that a replicate changes each image in its own
way. All four are normal. There are two simulated metrics. A *mean* (like PSNR-FP) is the mean of one coordinate over
the images. A *distance* (like FD-FP) is the squared length of the mean displacement in four coordinates. It is
quadratic and has a bias like a Fréchet distance.

The intervals of simulated numbers are computed as those of real ones: by the resamples of `qdit.metrics.bootstrap`, the
shift of `qdit.core.intervals`, and the rule of `qdit.core.run_to_run`. The study counts the intervals that contain the
difference of the expected values. For comparison it also counts intervals that resample images only and ignore the
variation between runs.

A condition sets two ratios. Take the variance of the difference of two rows in one replicate: `ratio` is its part from
`run` divided by its part from `method`, and `mixed` is its part from `mixed` divided by its part from `method`. All
parts are those of means over images.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError
from qdit.core.intervals import LEVEL, centred, interval
from qdit.core.provenance import commit, machine, packages
from qdit.core.run_to_run import LEAST_REPLICATES, RunToRun, combined
from qdit.core.streams import Purpose, generator
from qdit.metrics.bootstrap import RESAMPLES, multiplicities

RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
MIXED = (0.0, 1.0, 3.0)
METRICS = {"mean": 1, "distance": 4}
"""Simulated metric → coordinates of its displacements."""
METRIC_NAMES = {"mean": "psnr_fp", "distance": "fd_fp"}
"""Simulated metric → the metric whose resampled values are shifted, or not, in the same way."""
SHARED_DEVIATION = 3.0
"""Of the noise that all methods share, in deviations of what images do to one method alone."""
FAR = 40.0
"""Distance of the methods from full precision, in deviations of the mean of `method` over the images."""
WANTED = (0.93, 0.97)
"""What the coverage of 95 % intervals has to lie between."""


@dataclass(frozen=True)
class Condition:
    """A simulated metric, with the variances that `run` and `mixed` cause, relative to the one that `method` causes."""

    metric: str
    ratio: float
    mixed: float


@dataclass(frozen=True)
class Plan:
    """Size of the study: numbers of tables, methods, images, replicates and resamples."""

    tables: int = 2000
    methods: int = 3
    images: int = 128
    replicates: int = LEAST_REPLICATES
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"tables": 1, "methods": 2, "images": 2, "replicates": LEAST_REPLICATES, "resamples": 20}
        for name, minimum in least.items():
            if (number := getattr(self, name)) < minimum:
                raise ConfigError(f"{name} {number}: must be at least {minimum}")


@dataclass(frozen=True)
class SimulatedTable:
    """Values (methods, replicates), B resampled values of each (methods, replicates, B), expected values (methods,)."""

    values: np.ndarray
    samples: np.ndarray
    truth: np.ndarray


def conditions() -> list[Condition]:
    """List all conditions of the study."""
    return [Condition(metric, ratio, mixed) for metric in METRICS for mixed in MIXED for ratio in RATIOS]


def simulate(plan: Plan, condition: Condition, counts: np.ndarray, draw: np.random.Generator) -> SimulatedTable:
    """Draw one simulated table. `counts` (B, images) says how often each image is in each of the B resamples."""
    size, width = (plan.methods, plan.replicates, plan.images), METRICS[condition.metric]
    mean = 1 / np.sqrt(plan.images)
    far = FAR * mean * (1 + 0.1 * np.arange(plan.methods))
    centre = np.zeros((plan.methods, width))
    centre[:, 0] = far
    noise = SHARED_DEVIATION * draw.standard_normal((1, 1, plan.images, width))
    method = draw.standard_normal((plan.methods, 1, plan.images, width))
    runs = np.sqrt(condition.ratio) * mean * draw.standard_normal((*size[:2], 1, width))
    mixed = np.sqrt(condition.mixed) * draw.standard_normal((*size, width))
    displacements = centre[:, None, None] + noise + method + runs + mixed
    means = displacements.mean(axis=2)
    columns = np.moveaxis(displacements, 2, 0).reshape(plan.images, -1)
    resampled = np.moveaxis((counts / plan.images @ columns).reshape(-1, *size[:2], width), 0, 2)
    if condition.metric == "mean":
        return SimulatedTable(means[..., 0], resampled[..., 0], far)
    spread = width * mean**2 * (SHARED_DEVIATION**2 + 1 + condition.mixed + condition.ratio)
    return SimulatedTable((means**2).sum(axis=-1), (resampled**2).sum(axis=-1), far**2 + spread)


def gaps(table: SimulatedTable, metric: str) -> list[tuple[float, RunToRun]]:
    """For each pair of neighbouring methods: the true difference, and the measured differences of all replicates."""
    shifted = np.stack(
        [
            [centred(METRIC_NAMES[metric], float(value), row) for value, row in zip(values, rows, strict=True)]
            for values, rows in zip(table.values, table.samples, strict=True)
        ]
    )
    return [
        (float(table.truth[a] - table.truth[b]), RunToRun(table.values[a] - table.values[b], shifted[a] - shifted[b]))
        for a, b in pairwise(range(len(table.truth)))
    ]


def measure(plan: Plan, number: int, condition: Condition, counts: np.ndarray) -> dict[str, Any]:
    """Count under one condition how many intervals contain the true difference, and measure their lengths.

    This is done for the intervals of the tables and for intervals that resample images only. `length` is the length of
    the former divided by that of the latter, as the median over the pairs of rows.
    """
    draw = generator(plan.seed, Purpose.COVERAGE, number)
    contained, by_images, lengths = 0, 0, []
    for _ in range(plan.tables):
        for truth, runs in gaps(simulate(plan, condition, counts, draw), condition.metric):
            limits = combined(float(runs.values.mean()), interval(runs.samples.mean(axis=0)), runs)
            contained += limits.low <= truth <= limits.high
            by_images += limits.images[0] <= truth <= limits.images[1]
            lengths.append((limits.high - limits.low) / (limits.images[1] - limits.images[0]))
    pairs = len(lengths)
    coverage = {"coverage": contained / pairs, "by_images_alone": by_images / pairs}
    return {**asdict(condition), "pairs": pairs, **coverage, "length": float(np.median(lengths))}


def coverage_study(plan: Plan | None = None, *, chosen: Sequence[Condition] | None = None) -> dict[str, Any]:
    """Run the study.

    Return as JSON the plan, the coverage under each condition, and whether all are between 93 and 97 %.
    """
    plan, begin = plan or Plan(), time.perf_counter()
    counts = multiplicities(plan.images, plan.resamples)
    numbered = enumerate(conditions() if chosen is None else chosen)
    measured = [measure(plan, number, condition, counts) for number, condition in numbered]
    coverages = [entry["coverage"] for entry in measured]
    return {
        "plan": asdict(plan) | {"level": LEVEL, "wanted": list(WANTED)},
        "conditions": measured,
        "least": min(coverages),
        "most": max(coverages),
        "as_wanted": WANTED[0] <= min(coverages) and max(coverages) <= WANTED[1],
        "seconds": round(time.perf_counter() - begin, 1),
        "code": code_digest("qdit.bench.coverage_study"),
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
    }
