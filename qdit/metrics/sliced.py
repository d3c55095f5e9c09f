"""MIND: the sliced squared 2-Wasserstein distance of features (Berthet et al. 2026, arXiv 2605.06797).

    MIND(P, Q) = 3 d · mean over directions u of W₂²(u·P, u·Q)

d is the number of features, and each u is uniform on the unit sphere. In one dimension the optimal plan joins equal
quantiles, so W₂² of two sorted samples is exact; the two may differ in size. The factor 3 d makes a shift of the mean
by δ count 3 ‖δ‖².

The definition and the factor are the paper's. Two choices are ours. The directions are fixed: all runs have the same.
And they are drawn as random orthonormal bases instead of one by one. Each direction is still uniform. The part of MIND
that comes from the means is exact if it is averaged over a whole basis.

**Influence of an image.** Kantorovich's potentials of the optimal plan say how much MIND changes with the weight of
each image. A resample gives the images other weights. The MIND of a resample is approximated from the potentials, to
first order in these weights. The spread of these values is that of new sets of images. If MIND is computed anew for
each resample, the spread is 1.5 to 4 times as large for paired images, because sorting a resample joins other pairs
(tests/metrics/test_sliced.py). The approximation also needs only one matrix product for all resamples.
"""

from dataclasses import dataclass

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.frechet import MANY_FEATURES
from qdit.metrics.statistics import require_matrix

FACTOR = 3
FEW_DIRECTIONS, MANY_DIRECTIONS = 128, 1024
"""Directions for at most `MANY_FEATURES` features, and for more. The paper takes 100 to 1,000."""
SEED = 0
"""Seed of the directions. It is not a part of a profile: all runs are compared along the same directions."""


@dataclass(frozen=True)
class Sliced:
    """MIND, and the influence (N,) of each image on it: how much MIND changes with the image's weight.

    Only differences between the influences of two images have a meaning.
    """

    value: float
    influence: np.ndarray

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """MIND (B,) of resamples in which the images occur `counts` (B, N) times, by a first-order approximation."""
        return np.asarray(self.value + (counts - 1) @ self.influence / counts.shape[1])


def number_of_directions(features: int) -> int:
    """Number of directions onto which this number of features is projected."""
    return FEW_DIRECTIONS if features <= MANY_FEATURES else MANY_DIRECTIONS


def directions(features: int) -> np.ndarray:
    """The unit vectors (features, directions) onto which features are projected. They are the same in every run."""
    count = number_of_directions(features)
    draw = np.random.Generator(np.random.Philox([SEED, features]))
    bases = [np.linalg.qr(draw.standard_normal((features, features)))[0] for _ in range(-(-count // features))]
    return np.concatenate(bases, axis=1)[:, :count]


def sliced_distance(x: np.ndarray, y: np.ndarray, *, paired: bool = False) -> Sliced:
    """MIND of features x (N, d) and y (M, d), and the influence of each image of x.

    With `paired`, image i of both sets has the same noise and both are resampled together: M is N, and the influence
    counts both. Otherwise y is fixed. DataError for other shapes, and for values that are not finite.
    """
    a, b = require_matrix("generated features", x, rows=1), require_matrix("compared features", y, rows=1)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"found {a.shape[1]} features per image beside {b.shape[1]}; use one extractor for both")
    if paired and len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} images cannot be paired; sample both with the same setting")
    onto, centre = directions(a.shape[1]), b.mean(axis=0)  # distances stay; values near zero lose fewer digits
    scale = FACTOR * a.shape[1] / onto.shape[1]
    total, influence = 0.0, np.zeros(len(a))
    for values, others in zip(((a - centre) @ onto).T, ((b - centre) @ onto).T, strict=True):
        order, other_order = (np.argsort(column, kind="stable") for column in (values, others))
        low, high = values[order], others[other_order]
        squared = (low - high) ** 2 if len(low) == len(high) else _squared_gaps(low, high)
        total += squared.mean()
        potential = _potential(low, high)
        influence[order] += potential
        if paired:
            influence[other_order] += squared - potential
    return Sliced(float(scale * total), scale * influence)


def _squared_gaps(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Mean squared difference (N,) of each sorted value to its share of the quantiles of other sorted values (M,)."""
    means, squares = (_quantile_means(values, len(low)) for values in (high, high**2))
    return np.maximum(low**2 - 2 * low * means + squares, 0)


def _quantile_means(values: np.ndarray, parts: int) -> np.ndarray:
    """Means (parts,) of a step function with these values (M,) over `parts` equal intervals."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(parts + 1) * (len(values) / parts)
    return np.asarray(np.diff(np.interp(ends, np.arange(len(sums)), sums)) * (parts / len(values)))


def _potential(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Kantorovich potential (N,) at sorted values, of the squared distance to other sorted values (M,).

    Its slope at x is 2 (x − T(x)). Between two neighbours, T is the other sample's quantile at their common border;
    where this falls between two of its values, their middle.
    """
    border = np.arange(1, len(low)) * len(high)  # in units of 1 / N of a value
    quantile = (high[(border - 1) // len(low)] + high[border // len(low)]) / 2
    return np.concatenate([[0.0], np.cumsum(np.diff(low) * (low[1:] + low[:-1] - 2 * quantile))])
