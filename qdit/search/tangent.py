"""The Fréchet distance of images to nearly equal ones as the squared length of a mean over images.

For moments that differ by m and E, in the eigenbasis of the covariance V diag(λ) Vᵀ,

    FD = |m|² + ½ Σ_ab (VᵀEV)²_ab / (λ_a + λ_b) + O(3),

the second term being the Bures metric (Bhatia, Jain & Lim 2019). With images in pairs from the same noise, m and E are
means over images of what one pair differs by, so that small changes of a model add up in them, and a distance needs
fewer images than one between covariances that were estimated apart.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

REGULARIZED = 1e-3
"""Added to the eigenvalues, as a fraction of their mean: few images leave directions without variance."""


@dataclass(frozen=True)
class Shift:
    """Vectors (D,) of one genome on some images, and the variance of an element (mean over the elements).

    `mean` is m; the squared length of `cross` is the distance of the covariances.
    """

    mean: np.ndarray
    mean_noise: float
    cross: np.ndarray
    cross_noise: float


@dataclass(frozen=True)
class Tangent:
    """Shifts of features (N, d) from the full-precision features `at` (M, d), which give the moments and λ.

    A few images differ far more than the others and hide them. Therefore the difference of an image is shortened to the
    median length. So shifts compare genomes on equal numbers of images; they are no estimate of FD.
    """

    at: np.ndarray

    @cached_property
    def _basis(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(np.cov(self.at.T))
        return np.maximum(values, 0) + REGULARIZED * values.mean(), vectors

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices a ≤ b, and the weights whose squares add up to the second term."""
        values, _ = self._basis
        a, b = np.triu_indices(len(values))
        return a, b, np.where(a == b, 1, np.sqrt(2)) / np.sqrt(2 * (values[a] + values[b]))

    def __call__(self, full: np.ndarray, quantized: np.ndarray) -> Shift:
        """The shift of at least two images; both (n, d), pairs by row."""
        moved = shortened(np.asarray(quantized, np.float64) - full)
        _, vectors = self._basis
        a, b, weights = self._pairs
        position, step = (full - self.at.mean(axis=0)) @ vectors, moved @ vectors
        products = (position[:, a] * step[:, b] + step[:, a] * position[:, b] + step[:, a] * step[:, b]) * weights
        return Shift(*mean_and_noise(moved), *mean_and_noise(products))


def shortened(vectors: np.ndarray) -> np.ndarray:
    """The rows, with rows longer than the median row scaled down to its length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    median = np.median(lengths)
    return vectors * np.divide(median, lengths, out=np.ones_like(lengths), where=lengths > median)


def mean_and_noise(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of the rows, and the variance of an element of that mean, averaged over the elements."""
    return rows.mean(axis=0), float(rows.var(axis=0, ddof=1).mean() / len(rows))
