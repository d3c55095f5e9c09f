"""Fréchet distance between two Gaussians. The moments decide whether it is FID, sFID or FD-FP."""

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.statistics import Moments

NEGATIVE_TOLERANCE = 1e-3
"""Largest negative eigenvalue, relative to the largest one, that passes for rounding (published float32 statistics)."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½ (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    tr (Σ_a Σ_b)^½ is the sum of the singular values of Σ_a^½ Σ_b^½. So no value is complex, and there may be fewer
    samples than dimensions. Raises DataError for moments that are not finite, differ in size, or have a matrix that is
    no covariance.
    """
    for name, moments in (("first", a), ("second", b)):
        size = moments.mean.shape
        if len(size) != 1 or moments.covariance.shape != 2 * size:
            raise DataError(
                f"{name} moments: mean {size} and covariance {moments.covariance.shape}, allowed are (d,) and (d, d);"
                " make the statistics again"
            )
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.covariance).all()):
            raise DataError(f"{name} moments: hold NaN or infinity; make the statistics again")
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"moments of {a.mean.size} and of {b.mean.size} features cannot be compared; use one extractor for both"
        )
    gap = np.asarray(a.mean, np.float64) - np.asarray(b.mean, np.float64)
    root_a, root_b = square_root(a.covariance), square_root(b.covariance)
    overlap = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    distance = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(distance), 0.0)


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
