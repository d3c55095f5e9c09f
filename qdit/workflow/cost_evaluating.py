"""Estimate the core-seconds that the evaluation of a run of images takes: Fréchet distances and their resamples.

Operations are counted and divided by `SPEED`. The constants were measured with OpenBLAS on one core of an AMD EPYC with
AVX-512 at d = 2,048 features, in units of d³ operations: eigenvectors 9, eigenvalues 4, singular values 15. Products in
float32 are twice as fast. Inception scores and reading are not counted. `qdit.metrics.resampled_frechet` says which
method is used for which number of images and features.
"""

from qdit.metrics.resampled_expansion import LEADING, SECOND_ORDER_PAIRED
from qdit.metrics.resampled_frechet import resampling_method

PEAK_BYTES = 2.5e9
"""Memory of evaluating 10,000 images, at most: float64 copies of two sets of features, float32 copies for products."""
SPEED = 45e9
"""Operations per second of one core in float64 matrix products."""
POOL, SPATIAL = 2048, 2023
"""Features of Inception for FID and FD-FP, and for sFID."""
DISTINCT = 0.632
"""Share of the images that occur in a resample: 1 − 1/e."""
OVERHEAD = 600
"""Operations for each drawn number: rows are copied and weighed."""
PAIR_TERMS = 4
"""Eigenvectors of the weights of pairs (`qdit.metrics.resampled_pairs`); roots that fall like 1 / i need four."""
EIGENVECTORS, EIGENVALUES, SINGULAR_VALUES, CHOLESKY = 9, 4, 15, 1 / 3
"""Operations over the cube of a matrix's size."""


def evaluating_seconds(images: int, resamples: int, *, pool: int = POOL, spatial: int = SPATIAL) -> float:
    """Return the core-seconds for FID, sFID and FD-FP of a run with their resamples."""
    reference = sum(distance_operations(images, features, resamples, paired=False) for features in (pool, spatial))
    return (reference + distance_operations(images, pool, resamples, paired=True)) / SPEED


def distance_operations(images: int, features: int, resamples: int, *, paired: bool) -> float:
    """Return the operations of one Fréchet distance and all its resamples.

    `paired` (FD-FP): each resample also resamples the full-precision images. Else the reference statistics are fixed.
    """
    cube, covariance = float(features) ** 3, float(images) * features**2
    once = (2 * CHOLESKY + 2 + SINGULAR_VALUES) * cube + covariance
    kept, sides = DISTINCT * images, 2 if paired else 1
    method = resampling_method(images, features)
    if method == "direct":
        roots = (EIGENVECTORS + EIGENVALUES + 6 if paired else EIGENVALUES) * cube
        return once + resamples * (2 * sides * kept * features**2 + roots)
    if method == "gram":
        small = (SINGULAR_VALUES if paired else EIGENVALUES) * kept**3
        return once + 2 * features * (images**2 + covariance / images) + resamples * small
    # Coordinates: eigenvectors, products of (d, d) matrices and of all images with them; fourth moments of two sets.
    leading = LEADING * features
    if not paired:
        balance = (CHOLESKY + EIGENVECTORS + 6) * cube + 3 * covariance
        pairs = PAIR_TERMS * images * covariance / features / 2
        products = kept * (leading**2 + OVERHEAD * leading)
        return once + balance + pairs + resamples * (products / 2 + EIGENVALUES * leading**3)
    balance, second = (2 * EIGENVECTORS + 8) * cube + 7.5 * covariance, SECOND_ORDER_PAIRED * features
    # one of the two sets is not weighed
    products = kept * (2 * second**2 + 5 / 3 * OVERHEAD * second + leading**2)
    return once + balance + resamples * (products / 2 + (EIGENVALUES + 5) * leading**3)


def evaluating_line(jobs: int, seconds: float) -> list[str]:
    """Write the line of `qdit doctor` about `jobs` evaluations that take `seconds` of one core together."""
    if not jobs:
        return []
    return [f"  evaluate   {jobs:>6} jobs {seconds / 3600:>10.1f} core-hours (of CPUs), peak {PEAK_BYTES / 1e9:.1f} GB"]
