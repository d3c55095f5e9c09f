"""Inception score, precision and recall as the evaluator of guided-diffusion (ADM) defines them, in float64."""

from collections.abc import Iterator

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.statistics import require_matrix

SPLIT_SIZE = 5000
NEIGHBOURS = 3


def inception_score(logits: np.ndarray, *, split_size: int = SPLIT_SIZE) -> float:
    """Inception score: mean over parts of the images of exp(mean_i KL(p_i ‖ mean p)), p = softmax of logits (N, c).

    The logits have no bias. A part is `split_size` consecutive images in file order; the last one may be shorter. The
    mean over parts is not weighted (Salimans et al. 2016; guided-diffusion evaluator.py).
    """
    log_p = log_probabilities(logits)
    scores = [score_of(log_p[start : start + split_size]) for start in range(0, len(log_p), split_size)]
    return float(np.mean(scores))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax of logits (N, c)."""
    values = require_matrix("logits", logits, rows=1)
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def score_of(log_p: np.ndarray, counts: np.ndarray | None = None) -> float:
    """Inception score of one part of the images, from their log-probabilities (N, c).

    Image i counts counts[i] times, without `counts` once.
    """
    p = np.exp(log_p)
    # p log p̄ is 0 where p is 0 for every image of the split; the floor keeps log p̄ finite there.
    log_marginal = np.log(np.maximum(np.average(p, axis=0, weights=counts), np.finfo(np.float64).tiny))
    return float(np.exp(np.average((p * (log_p - log_marginal)).sum(axis=1), weights=counts)))


def scores_of_resamples(log_p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Inception scores (B,) of one part of the images, whose log-probabilities (n, c) occur `counts` (B, n) times.

    Equal to `score_of` except for rounding. Σ_i w_i Σ_c p_ic log p̄_c is Σ_c p̄_c log p̄_c times Σ_i w_i, so all
    resamples are two matrix products.
    """
    p = np.exp(log_p)
    sizes = counts.sum(axis=1)
    marginals = counts @ p / sizes[:, None]
    mean_log_p = counts @ (p * log_p).sum(axis=1) / sizes
    log_marginals = np.log(np.maximum(marginals, np.finfo(np.float64).tiny))
    return np.asarray(np.exp(mean_log_p - (marginals * log_marginals).sum(axis=1)))


def precision_recall(
    reference: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS, block: int = 1024
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features: reference (N, d), generated (M, d).

    Each point has a ball that reaches to its `neighbours`-th nearest neighbour, not counting itself. Precision is the
    fraction of generated points in at least one ball of the reference. Recall is the fraction of reference points in at
    least one ball of a generated point. Squared distances are computed in blocks of `block` rows. So memory stays below
    block · max(N, M) numbers.
    """
    real, fake = _same_space(reference, generated, neighbours)
    precision = _covered(fake, real, _radii(real, neighbours, block), block).mean()
    recall = _covered(real, fake, _radii(fake, neighbours, block), block).mean()
    return float(precision), float(recall)


def realistic(
    reference: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS, block: int = 1024
) -> np.ndarray:
    """Whether each generated point lies in a ball of the reference: bool (M,).

    Precision is the mean of these values.
    """
    real, fake = _same_space(reference, generated, neighbours)
    return _covered(fake, real, _radii(real, neighbours, block), block)


def _same_space(reference: np.ndarray, generated: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64, minus the mean of the first.

    Distances stay the same and are computed with smaller errors.
    """
    real = require_matrix("reference features", reference, rows=neighbours + 1)
    fake = require_matrix("generated features", generated, rows=neighbours + 1)
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"reference has {real.shape[1]} features per image, the generated images {fake.shape[1]};"
            " use one extractor for both"
        )
    centre = real.mean(axis=0)
    return real - centre, fake - centre


def _squared_distances(rows: np.ndarray, columns: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Blocks of rows of the matrix of squared Euclidean distances."""
    norms = (columns**2).sum(axis=1)
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        distances = (some**2).sum(axis=1)[:, None] + norms - 2 * some @ columns.T
        yield np.maximum(distances, 0, out=distances)


def _radii(points: np.ndarray, neighbours: int, block: int) -> np.ndarray:
    """Squared distance of each point to its neighbour of that rank: entry rank + 1 of its row, which holds itself."""
    return np.concatenate(
        [
            np.partition(distances, neighbours, axis=1)[:, neighbours]
            for distances in _squared_distances(points, points, block)
        ]
    )


def _covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray, block: int) -> np.ndarray:
    """Which points lie in at least one ball."""
    return np.concatenate(
        [(distances <= radii).any(axis=1) for distances in _squared_distances(points, centres, block)]
    )
