"""Second-order part of the Fréchet distances of resamples to fixed moments, over all pairs of directions.

In the coordinates of `qdit.metrics.resampled_expansion`, scaled so that each direction of the n images z has variance
1, resample c differs from the fixed side by

    D = Σ_n e_n z_n z_nᵀ / (n − 1) − n / (n − 1) · m mᵀ        e_n = c_n − 1, m = Σ_n e_n z_n / n

and the second-order part of its distance is Σ_ij w_ij D_ij², with w_ij = r_i r_j / (2 (r_i + r_j)). There are millions
of pairs. But w is smooth in r, so a few eigenvectors u_q give nearly all of it: w ≈ Σ_q λ_q u_q u_qᵀ. Then

    Σ_ij w_ij (Σ_n e_n z_ni z_nj)² = Σ_q λ_q Σ_nm e_n e_m (Σ_i u_qi z_ni z_mi)²

is one product of all images with all images for each q. Its cost does not depend on the number of resamples.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

MISSED = 0.02
"""Part of the spread of all pairs that the eigenvectors may miss in the pairs that are not exact."""
MOST = 8
"""Eigenvectors, at most."""
BLOCK = 1000
"""Images whose products with all others are in memory at once."""


@dataclass(frozen=True)
class Weights:
    """Weights w of the pairs of directions, as a low-rank matrix: w ≈ Σ_q values_q vectors_q vectors_qᵀ.

    `vectors` is (r, q).
    """

    values: np.ndarray
    vectors: np.ndarray

    def of_leading(self, count: int) -> np.ndarray:
        """Weights (count, count) of the pairs among the first `count` directions, in float32."""
        vectors = self.vectors[:count]
        return ((vectors * self.values) @ vectors.T).astype(np.float32)


def pair_weights(roots: np.ndarray, leading: int) -> Weights:
    """Weights of the second-order part for `roots` (r,), with as few eigenvectors as the allowed error `MISSED` needs.

    Errors in the pairs of the first `leading` directions do not count: there the distance is computed exactly.
    """
    exact = roots[:, None] * roots / (2 * (roots[:, None] + roots))
    values, vectors = _largest_eigenvectors(exact)
    missed = exact.copy()
    allowed = MISSED * np.linalg.norm(exact)
    for count in range(1, len(values) + 1):
        missed -= values[count - 1] * np.outer(vectors[:, count - 1], vectors[:, count - 1])
        squares = (missed**2).sum() - (missed[:leading, :leading] ** 2).sum()
        if squares <= allowed**2:
            break
    return Weights(values[:count], vectors[:, :count])


def _largest_eigenvectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Up to `MOST` eigenvalues of largest size and their vectors (r, q), largest first."""
    size = len(matrix)
    if size <= 4 * MOST:
        values, vectors = eigh(matrix)
    else:
        values, vectors = eigsh(matrix, k=MOST, which="LM", v0=np.ones(size))
    order = np.argsort(-np.abs(values))[:MOST]
    return values[order], vectors[:, order]


def second_order(scaled: np.ndarray, counts: np.ndarray, weights: Weights) -> np.ndarray:
    """Second-order part Σ_ij w_ij D_ij² (B,) of the distance of each resample.

    `scaled` (n, r), float32, are the features scaled to variance 1; `counts` (B, n) says how often each image occurs.
    """
    images = len(scaled)
    deviations = (counts - 1).T.astype(np.float32)  # (n, B)
    means = scaled.T @ deviations / np.float32(images)  # (r, B)
    total = np.zeros(counts.shape[0])
    for value, vector in zip(weights.values, weights.vectors.T.astype(np.float32), strict=True):
        covariances = _weighted_squares(scaled, scaled * vector, deviations) / (images - 1) ** 2
        turned = scaled @ (vector[:, None] * means)  # (n, B): z · (u ∘ m)
        mixed = (deviations * turned**2).sum(axis=0, dtype=np.float64) / (images - 1)
        square = (vector[:, None] * means**2).sum(axis=0, dtype=np.float64) ** 2
        shrunk = images / (images - 1)
        total += value * (covariances - 2 * shrunk * mixed + shrunk**2 * square)
    return total


def _weighted_squares(left: np.ndarray, right: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Σ_nm e_n e_m (left_n · right_m)² (B,). The matrix is symmetric: only its upper blocks are computed."""
    total = np.zeros(deviations.shape[1])
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        squares = left[start:stop] @ right[start:].T
        squares *= squares
        squares[:, stop - start :] *= 2
        total += (deviations[start:stop] * (squares @ deviations[start:])).sum(axis=0, dtype=np.float64)
    return total
