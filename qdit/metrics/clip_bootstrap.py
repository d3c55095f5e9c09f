"""Bootstrap of a video run's metrics over its clips: how much each number owes to the noise of its clips.

The prompts are fixed, as VBench's are, and the noise of each clip is drawn independently, so the clips of a dimension
are resampled; mFVD and the paired metrics resample all clips. The drawing depends on the number of clips only: the i-th
resample of two runs of one suite holds the same clips, and their differences are paired (`qdit.metrics.bootstrap`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qdit.core.files import sha256_json
from qdit.core.intervals import Replicates
from qdit.core.metrics import DIMENSIONS, TOTALS
from qdit.metrics.bootstrap import RESAMPLES, SEED, multiplicities, paired, to_reference
from qdit.metrics.statistics import Moments
from qdit.metrics.vbench_totals import scaled_between, totals

Scores = Mapping[str, Sequence[float | None]]
"""Dimension → score of each of its clips; None where VBench skips the clip."""


@dataclass(frozen=True)
class Paired:
    """Full precision with the same noise: features (N, d) of its clips, squared error (N,) of each clip to its clip."""

    features: np.ndarray
    errors: np.ndarray


def clip_bootstrap(
    scores: Scores,
    features: np.ndarray,
    real: Moments,
    full: Paired | None,
    *,
    scale: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    resamples: int = RESAMPLES,
) -> Replicates:
    """Resampled values of the sixteen scores, mfvd, and with `full` of fd_fp and mse_fp.

    `scale` is (worst, best) of every dimension; with it there are the three totals too.
    """
    values = {
        dimension: resampled_means(scores[dimension], number, resamples)
        for number, dimension in enumerate(DIMENSIONS)
        if dimension in scores
    }
    if scale is not None:
        rows = [{name: float(column[i]) for name, column in values.items()} for i in range(resamples)]
        found = [totals(scaled_between(row, worst=scale[0], best=scale[1])) for row in rows]
        values |= {name: np.array([one[name] for one in found]) for name in TOTALS}
    counts = multiplicities(len(features), resamples)
    values["mfvd"] = to_reference(np.asarray(features, np.float64), counts, real)
    if full is not None:
        same = not full.errors.any()
        values["fd_fp"] = np.zeros(resamples) if same else paired(features, full.features, counts)
        values["mse_fp"] = counts @ full.errors / len(full.errors)
    clips = {dimension: len(own) for dimension, own in scores.items()}
    return Replicates(values, f"clips-{resamples}x{len(features)}-{sha256_json(clips)[:12]}")


def resampled_means(scores: Sequence[float | None], number: int, resamples: int) -> np.ndarray:
    """Means (B,) of resampled clips, as VBench takes them: skipped clips do not count, and without any it is 0."""
    draw = np.random.Generator(np.random.Philox([SEED, number]))
    values = np.array([np.nan if score is None else score for score in scores], np.float64)
    rows = values[draw.integers(len(values), size=(resamples, len(values)))]
    counted = np.isfinite(rows)
    return np.asarray(np.where(counted, rows, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1))
