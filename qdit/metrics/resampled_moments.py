"""Moments of one resample, and the sum of the square roots of a matrix's eigenvalues."""

import numpy as np

from qdit.metrics.statistics import Moments


def centred_rows(features: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) of a resample, and its rows minus the mean, each times the square root of how often it occurs."""
    there = counts > 0
    rows, weights = features[there], counts[there].astype(np.float64)
    mean = weights @ rows / weights.sum()
    return mean, (rows - mean) * np.sqrt(weights)[:, None]


def covariance(rows: np.ndarray, images: int) -> np.ndarray:
    """Covariance (d, d) of a resample of `images` images, from the rows of `centred_rows`."""
    return np.asarray(rows.T @ rows / (images - 1))


def root_sum(matrix: np.ndarray) -> float:
    """Sum of the square roots of the eigenvalues of a positive semi-definite matrix.

    Eigenvalues so small that rounding explains them count as 0.
    """
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    floor = np.finfo(np.float64).eps * len(values) * max(float(values[-1]), 0.0)
    return float(np.sqrt(values[values > floor]).sum())


def distance_without_overlap(features: np.ndarray, other: np.ndarray | Moments, counts: np.ndarray) -> np.ndarray:
    """|μ_a − μ_b|² + tr Σ_a + tr Σ_b (B,) for each resample: the Fréchet distance without its matrix root.

    `other` are fixed moments, or features that are resampled in the same way.
    """
    mean = features.mean(axis=0)
    centred = features - mean
    means = counts @ centred / len(features)
    if isinstance(other, Moments):
        gaps = mean - other.mean + means
        return np.asarray((gaps**2).sum(axis=1) + traces(centred, means, counts) + np.trace(other.covariance))
    other_mean = other.mean(axis=0)
    other_centred = other - other_mean
    other_means = counts @ other_centred / len(other)
    gaps = mean - other_mean + counts @ (centred - other_centred) / len(other)
    both = traces(centred, means, counts) + traces(other_centred, other_means, counts)
    return np.asarray((gaps**2).sum(axis=1) + both)


def traces(centred: np.ndarray, means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Trace (B,) of the covariance of every resample of `centred` (n, d), whose means are `means` (B, d)."""
    images = len(centred)
    squares = counts @ np.einsum("nd,nd->n", centred, centred)
    return np.asarray((squares - images * (means**2).sum(axis=1)) / (images - 1))
