"""Fréchet distances of resamples from the products of all pairs of images, for at most as many images as features.

Let X (n, d) be the features of a run minus their mean, and R (d, d) the square root of the reference's covariance. Up
to a factor, tr (Σ_a Σ_b)^½ is the sum of the square roots of the eigenvalues of X R² Xᵀ, which is (n, n). A resample
takes the rows and columns of its images (about 63 % of all), removes the mean, and multiplies each by the root of how
often it occurs. If both sides X and Z are resampled, it is the sum of the singular values of X Zᵀ.
"""

from collections.abc import Iterator

import numpy as np

from qdit.metrics.frechet import square_root
from qdit.metrics.resampled_moments import distance_without_overlap, root_sum
from qdit.metrics.statistics import Moments


def gram_to_reference(features: np.ndarray, counts: np.ndarray, reference: Moments) -> np.ndarray:
    """Fréchet distance (B,) of B resamples of features (n, d) to fixed moments.

    It is computed from the products of all pairs of images. `counts` (B, n) says how often each image occurs.
    """
    centre = features.mean(axis=0)
    turned = (features - centre) @ square_root(reference.covariance)
    overlaps = [root_sum(matrix) for matrix in _resampled(turned @ turned.T, counts)]
    return np.maximum(distance_without_overlap(features, reference, counts) - 2 * np.array(overlaps), 0)


def gram_paired(features: np.ndarray, full: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fréchet distance (B,) between features (n, d) and full-precision features, both resampled by `counts` (B, n).

    It is computed from the products of all pairs of images.
    """
    products = (features - features.mean(axis=0)) @ (full - full.mean(axis=0)).T
    overlaps = [np.linalg.svd(matrix, compute_uv=False).sum() for matrix in _resampled(products, counts)]
    return np.maximum(distance_without_overlap(features, full, counts) - 2 * np.array(overlaps), 0)


def _resampled(products: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Products of pairs of rows minus the mean of the resample, times √(occurrences of both) / (n − 1)."""
    images = len(products)
    for row in counts:
        there = np.flatnonzero(row)
        weights = row[there] / images
        kept = products[np.ix_(there, there)]
        left, right = kept @ weights, weights @ kept
        about_mean = kept - left[:, None] - right + weights @ left
        roots = np.sqrt(row[there] / (images - 1))
        yield about_mean * roots[:, None] * roots
