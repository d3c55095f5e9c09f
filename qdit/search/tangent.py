"""Fréchet distance between images and nearly equal images, written as the squared length of a mean over images.

Let the moments differ by m (means) and E (covariances), and let the covariance be V diag(λ) Vᵀ in its eigenbasis. Then

    FD = |m|² + ½ Σ_ab (VᵀEV)²_ab / (λ_a + λ_b) + O(3).

The second term is the Bures metric (Bhatia, Jain & Lim 2019). Both images of a pair have the same noise. So m and E are
means over the differences of pairs, and small changes of a model add up in them. A distance computed in this way needs
fewer images than one between two covariances that were estimated separately.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

REGULARIZED = 1e-3
"""Added to the eigenvalues, as a fraction of their mean: few images leave directions without variance."""


@dataclass(frozen=True)
class Shift:
    """The change of features that a genome causes, as two mean vectors over images.

    `mean` (d,) is the difference of the means. `cross` stands for the difference of the covariances: its squared length
    is their distance. `mean_noise` and `cross_noise` are the variances of an element of each vector, averaged over
    elements.
    """

    mean: np.ndarray
    mean_noise: float
    cross: np.ndarray
    cross_noise: float


@dataclass(frozen=True)
class Tangent:
    """Function (full-precision features, quantized features) → `Shift`. Features `at` (M, d) give the moments and λ.

    A few images differ much more than all others and would decide the mean alone. Therefore a difference that is longer
    than the median is shortened to the median length. So shifts of two genomes on equal numbers of images can be
    compared, but a shift is no estimate of the Fréchet distance.
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
    """The row vectors, but a row longer than the median length is scaled down to the median length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    median = np.median(lengths)
    return vectors * np.divide(median, lengths, out=np.ones_like(lengths), where=lengths > median)


def mean_and_noise(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of the rows, and the variance of one element of this mean, averaged over the elements."""
    return rows.mean(axis=0), float(rows.var(axis=0, ddof=1).mean() / len(rows))
