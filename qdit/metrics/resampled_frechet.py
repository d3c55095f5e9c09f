"""Fréchet distances of all resamples of a run, by the method that fits the number of images and features.

    method      used for                         what it computes
    direct      at most 512 features             the covariance and the matrix root of every resample
    gram        more, and no more images         the same number from the products of all pairs of images
    expansion   more features, more images       an approximation (`qdit.metrics.resampled_expansion`)

For 10,000 images with 2,048 features, direct takes 5 s (FID) and 14 s (FD-FP) for each resample, that is 82 minutes of
one core for a run with 200 resamples. `direct` is the definition; the tests compare the other two with it. A method is
a function of the two numbers only, so all runs of a setting have the same one and stay paired.
"""

from typing import Literal

import numpy as np

from qdit.metrics.frechet import MANY_FEATURES, square_root
from qdit.metrics.resampled_expansion import expanded_paired, expanded_to_reference
from qdit.metrics.resampled_gram import gram_paired, gram_to_reference
from qdit.metrics.resampled_moments import centred_rows, covariance, root_sum
from qdit.metrics.statistics import Moments

ResamplingMethod = Literal["direct", "gram", "expansion"]


def resampling_method(images: int, features: int) -> ResamplingMethod:
    """Name of the method that computes Fréchet distances for resamples of this number of images and features."""
    if features <= MANY_FEATURES:
        return "direct"
    return "gram" if images <= features else "expansion"


def to_reference(features: np.ndarray, counts: np.ndarray, reference: Moments) -> np.ndarray:
    """Fréchet distance (B,) of B resamples of features (n, d) to fixed moments.

    `counts` (B, n) says how often each image occurs in each resample.
    """
    by_method = {"direct": direct_to_reference, "gram": gram_to_reference, "expansion": expanded_to_reference}
    return by_method[resampling_method(*features.shape)](features, counts, reference)


def paired(features: np.ndarray, full: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fréchet distance (B,) between features (n, d) and full-precision features, both resampled by `counts` (B, n)."""
    by_method = {"direct": direct_paired, "gram": gram_paired, "expansion": expanded_paired}
    a, b = np.asarray(features, np.float64), np.asarray(full, np.float64)
    return by_method[resampling_method(*a.shape)](a, b, counts)


def direct_to_reference(features: np.ndarray, counts: np.ndarray, reference: Moments) -> np.ndarray:
    """Fréchet distance (B,) of B resamples of features (n, d) to fixed moments, by the matrix root of each resample.

    tr (Σ_a Σ_b)^½ is the sum of the square roots of the eigenvalues of Σ_b^½ Σ_a Σ_b^½. This matrix is the covariance
    of features · Σ_b^½.
    """
    root = square_root(reference.covariance)
    turned, trace = features @ root, np.trace(reference.covariance)
    distances = []
    for row in counts:
        mean, rows = centred_rows(features, row)
        gap = mean - reference.mean
        overlap = root_sum(covariance(centred_rows(turned, row)[1], len(features)))
        distances.append(gap @ gap + (rows**2).sum() / (len(features) - 1) + trace - 2 * overlap)
    return np.maximum(distances, 0)


def direct_paired(features: np.ndarray, full: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fréchet distance (B,) between features (n, d) and full-precision features, both resampled by `counts` (B, n).

    The matrix root of each resample is computed.
    """
    a, b = np.asarray(features, np.float64), np.asarray(full, np.float64)
    distances = []
    for row in counts:
        (mean_a, rows_a), (mean_b, rows_b) = centred_rows(a, row), centred_rows(b, row)
        covariance_a, covariance_b = covariance(rows_a, len(a)), covariance(rows_b, len(b))
        root, gap = square_root(covariance_b), mean_a - mean_b
        overlap = root_sum(root @ covariance_a @ root)
        distances.append(gap @ gap + np.trace(covariance_a) + np.trace(covariance_b) - 2 * overlap)
    return np.maximum(distances, 0)
