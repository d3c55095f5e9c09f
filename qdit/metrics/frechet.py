"""Fréchet distance between two Gaussians.

It is FID, sFID or FD-FP, depending on the features and on what is compared.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.statistics import Moments, moments, require_matrix

MANY_FEATURES = 512
"""Above this number of features, distances may be computed in ways that save time and round differently. The
miniatures have 64 to 192 features."""

CLEAR_PIVOT = 1e-11
"""Smallest pivot of a Cholesky factor, relative to the largest one, that is not decided by rounding."""

NEGATIVE_TOLERANCE = 1e-3
"""Largest negative eigenvalue, relative to the largest one, that passes for rounding (published float32 statistics)."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance of two Gaussians: |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½.

    Sources: Dowson & Landau 1982; Heusel et al. 2017, eq. 6. tr (Σ_a Σ_b)^½ is the sum of the singular values of F_aᵀ
    F_b, where F Fᵀ = Σ (`factor`). So no value is complex, and there may be fewer samples than dimensions. Raises
    DataError for moments that are not finite, differ in size, or have a matrix that is not a covariance.
    """
    require_moments("first", a)
    require_moments("second", b)
    _require_same_size(a.mean.size, b.mean.size)
    gap = np.asarray(a.mean, np.float64) - np.asarray(b.mean, np.float64)
    overlap = np.linalg.svd(_product(a.covariance, b.covariance), compute_uv=False).sum()
    distance = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(distance), 0.0)


@dataclass(frozen=True)
class Target:
    """The fixed side of many Fréchet distances: moments of d features, and the features (n, d) themselves if known."""

    moments: Moments
    features: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray) -> "Target":
        """Make the fixed side of Fréchet distances from features (n, d), n ≥ 2."""
        return cls(moments(features), features)

    @cached_property
    def factor(self) -> np.ndarray:
        """Matrix F (r, d) with Fᵀ F = covariance.

        If there are fewer images than features, F has one row for each image.
        """
        if self.features is not None and is_thin(self.features):
            return _factor(self.features)
        return square_root(self.moments.covariance)


def distance_to(target: Target, features: np.ndarray) -> float:
    """Fréchet distance of features (n, d) to a target; it raises the errors of `frechet_distance`.

    If features are many and images fewer, tr (Σ_a Σ_b)^½ is the sum of the singular values of F_a F_bᵀ with factors
    that have one row for each image. It is (n, n) or (n, d), and no root of a (d, d) matrix is needed.
    """
    if not is_thin(features):
        return frechet_distance(moments(features), target.moments)
    rows = require_matrix("features", features, rows=2)
    require_moments("target", target.moments)
    _require_same_size(rows.shape[1], target.moments.mean.size)
    factors, gap = _factor(rows), rows.mean(axis=0) - target.moments.mean
    overlap = np.linalg.svd(factors @ target.factor.T, compute_uv=False).sum()
    distance = gap @ gap + (factors**2).sum() + np.trace(target.moments.covariance) - 2 * overlap
    return max(float(distance), 0.0)


def is_thin(features: np.ndarray) -> bool:
    """Whether features (n, d) are many (d above `MANY_FEATURES`) and the images are fewer (n below d)."""
    return features.ndim == 2 and len(features) < features.shape[1] > MANY_FEATURES


def _factor(features: np.ndarray) -> np.ndarray:
    """F (n, d) with Fᵀ F = covariance of features (n, d)."""
    rows = np.asarray(features, np.float64)
    return np.asarray((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1))


def require_moments(name: str, of: Moments) -> None:
    """Raise DataError unless the moments are finite, and mean and covariance fit each other in size."""
    size = of.mean.shape
    if len(size) != 1 or of.covariance.shape != 2 * size:
        raise DataError(
            f"{name} moments: mean {size} and covariance {of.covariance.shape}, allowed are (d,) and (d, d);"
            " make the statistics again"
        )
    if not (np.isfinite(of.mean).all() and np.isfinite(of.covariance).all()):
        raise DataError(f"{name} moments: hold NaN or infinity; make the statistics again")


def _require_same_size(first: int, second: int) -> None:
    if first != second:
        raise DataError(f"moments of {first} and of {second} features cannot be compared; use one extractor for both")


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """F_aᵀ F_b of two covariances. For few features, the product of the symmetric roots."""
    if len(first) <= MANY_FEATURES:
        return np.asarray(square_root(first) @ square_root(second))
    return np.asarray(factor(first).T @ factor(second))


def factor(covariance: np.ndarray) -> np.ndarray:
    """Matrix F (d, d) with F Fᵀ = covariance: a Cholesky factor, thirty times as fast as the symmetric root.

    If rounding errors decide about some directions, it is the symmetric root.
    """
    matrix = np.asarray(covariance, np.float64)
    try:
        lower = np.linalg.cholesky((matrix + matrix.T) / 2)
    except np.linalg.LinAlgError:
        return square_root(matrix)
    pivots = np.diagonal(lower) ** 2
    clear = pivots.min() > CLEAR_PIVOT * pivots.max()
    return lower if clear else square_root(matrix)


def square_root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive semi-definite matrix."""
    matrix = np.asarray(covariance, np.float64)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    largest = max(float(values[-1]), 0.0)
    if values[0] < -NEGATIVE_TOLERANCE * largest:
        raise DataError(
            f"covariance has the eigenvalue {values[0]:.3g} beside {largest:.3g}, allowed are none below zero;"
            " make the statistics again"
        )
    # Eigenvalues of the size of rounding are zeros: their roots (1e-8) would add up over thousands of dimensions.
    values[values < np.finfo(np.float64).eps * len(values) * largest] = 0
    return (vectors * np.sqrt(values)) @ vectors.T
