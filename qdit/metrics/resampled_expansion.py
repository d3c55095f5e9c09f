"""Approximate Fréchet distances of resamples, for many features and more images than features.

**Balanced coordinates.** Multiply the features of one side by a matrix T and those of the other side by T⁻ᵀ. This does
not change tr (Σ_a Σ_b)^½. One choice of T makes both covariances the same diagonal matrix. Its entries r are the square
roots of the eigenvalues of Σ_a Σ_b. Let A and B be the covariances of a resample in these coordinates, and D = A − B.
Then

    tr (A B)^½ = ½ tr (A + B) − ¼ Σ_ij D_ij² / (r_i + r_j) + terms of third order.

The first term is linear in how often each image occurs, so it is an exact sum of N numbers (the influence function of
the distance). The second term gives the spread of FD-FP near zero, where the first term vanishes.

**Leading directions.** These are the quarter of the directions with the largest r. Among them the distance of A and B
is exact: it takes one Cholesky factor and the eigenvalues of a matrix of a quarter of the size. For all other pairs of
directions there are two cases. If one side has fixed moments, all these pairs are computed to second order. If both
sides are resampled, pairs of the first seven sixteenths of the directions are computed to second order, and the rest to
first order only. This would make the spread too small. So the deviations of the second-order values from their mean are
multiplied by the square root of a ratio: the variance of all pairs that are not exact, over the variance of those that
are computed to second order. Both variances follow from fourth moments, as if D_ij were independent and normal.

**Accuracy** on features of the mini profile: docs/protocol.md; tests/metrics/test_resampled_frechet.py repeats it.
Errors grow with fewer images per feature. If the roots r do not fall from direction to direction, the deviation of
FD-FP is too small: by 16 % with equal variances in 40 directions and damage in all of them.

D is a sum over products of differences and sums of the two sides' coordinates, so nothing cancels if they are nearly
equal, and float32 is enough for products over images. Roots and the sums of first order are in float64.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qdit.metrics.frechet import factor
from qdit.metrics.resampled_moments import distance_without_overlap, root_sum, traces
from qdit.metrics.resampled_pairs import pair_weights, second_order
from qdit.metrics.statistics import Moments

LEADING = 1 / 4
"""Share of the directions in which a resample's distance is exact."""
SECOND_ORDER_PAIRED = 7 / 16
"""Share of the directions whose pairs count to second order or better, between two resampled sets."""
ROUNDING = 1e-13
"""Eigenvalues below this share of the largest one are zero: float64 cannot tell them from it."""


@dataclass(frozen=True)
class Balanced:
    """Features of n images, minus their mean, in coordinates in which both covariances are the same diagonal matrix.

    `run` (n, r) are the features of the run, `other` those of the other side, or None if that side is fixed. `roots`
    (r,) are the diagonal, that is the common variances; the directions are sorted by falling root.
    """

    run: np.ndarray
    other: np.ndarray | None
    roots: np.ndarray


def expanded_to_reference(features: np.ndarray, counts: np.ndarray, reference: Moments) -> np.ndarray:
    """Approximate Fréchet distance (B,) of B resamples of features (n, d) to fixed moments.

    `counts` (B, n) says how often each image occurs. With 10,000 images and 2,048 features a resample takes about 0.1
    s.
    """
    balanced = balance_to_reference(features, reference)
    return _expanded(balanced, counts, distance_without_overlap(features, reference, counts))


def expanded_paired(features: np.ndarray, full: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Approximate Fréchet distance (B,) between resampled features (n, d) and full-precision features.

    Both are resampled in the same way: `counts` (B, n) says how often each image occurs.
    """
    balanced = balance_pair(features, full)
    return _expanded(balanced, counts, distance_without_overlap(features, full, counts))


def balance_to_reference(features: np.ndarray, reference: Moments) -> Balanced:
    """Change features (n, d) to balanced coordinates.

    In them their covariance and the reference's are equal and diagonal.
    """
    centred = features - features.mean(axis=0)
    root = factor(reference.covariance)
    squares, vectors = _eigenvectors(root.T @ _covariance(centred) @ root)
    roots = np.sqrt(squares)
    return Balanced(centred @ (root @ vectors / np.sqrt(roots)), None, roots)


def balance_pair(features: np.ndarray, full: np.ndarray) -> Balanced:
    """Change features (n, d) and full-precision features of the same images to balanced coordinates.

    In these coordinates both covariances are equal and diagonal.
    """
    run, other = features - features.mean(axis=0), full - full.mean(axis=0)
    values, axes = _eigenvectors(_covariance(other))
    turned, inverse = axes * np.sqrt(values), axes / np.sqrt(values)
    squares, vectors = _eigenvectors(turned.T @ _covariance(run) @ turned)
    roots = np.sqrt(squares)
    return Balanced(run @ (turned @ vectors / np.sqrt(roots)), other @ (inverse @ vectors * np.sqrt(roots)), roots)


def _covariance(centred: np.ndarray) -> np.ndarray:
    return np.asarray(centred.T @ centred / (len(centred) - 1))


def _eigenvectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (r,) above rounding, largest first, and their vectors (d, r)."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = np.flatnonzero(values > ROUNDING * values.max(initial=0))[::-1]
    return values[kept], vectors[:, kept]


def _expanded(balanced: Balanced, counts: np.ndarray, without_overlap: np.ndarray) -> np.ndarray:
    """Distances (B,): the linear terms, minus tr (A + B), plus the distance of A and B in balanced coordinates."""
    if not len(balanced.roots):
        return np.maximum(without_overlap, 0)
    sums = np.full(len(counts), balanced.roots.sum()) if balanced.other is None else 0.0
    for side in (balanced.run, balanced.other):
        if side is not None:
            sums = sums + traces(side, counts @ side / len(side), counts)
    return np.maximum(without_overlap - sums + balanced_distances(balanced, counts), 0)


def balanced_distances(balanced: Balanced, counts: np.ndarray) -> np.ndarray:
    """tr A + tr B − 2 tr (A B)^½ (B,) for the covariances A, B of each resample in balanced coordinates.

    It is exact in the leading directions, and of second order in the others.
    """
    if balanced.other is None:
        return _to_fixed(balanced, counts)
    products, roots = _Products.of(balanced), balanced.roots
    leading, further = (math.ceil(share * len(roots)) for share in (LEADING, SECOND_ORDER_PAIRED))
    weights = roots[:, None] * roots / (2 * (roots[:, None] + roots))
    weights[:leading, :leading] = 0
    factor = _missing_spread(weights * products.variances(), further)
    weights = weights[:further, :further].astype(np.float32)
    outer = np.sqrt(roots[:leading, None] * roots[:leading])
    exact, beyond = np.empty(len(counts)), np.empty(len(counts))
    for number, (difference, other) in enumerate(products.resampled(counts, leading, further)):
        beyond[number] = (difference * difference * weights).sum(dtype=np.float64)
        gap = difference[:leading, :leading].astype(np.float64) * outer
        exact[number] = _distance(gap, other * outer)
    return np.asarray(exact + beyond.mean() + factor * (beyond - beyond.mean()))


def _to_fixed(balanced: Balanced, counts: np.ndarray) -> np.ndarray:
    """`balanced_distances` beside fixed moments: all pairs to second order, the leading ones exact in its place."""
    roots = balanced.roots
    scaled = (balanced.run / np.sqrt(roots)).astype(np.float32)
    leading = math.ceil(LEADING * len(roots))
    weights = pair_weights(roots, leading)
    distances = second_order(scaled, counts, weights)
    of_leading = weights.of_leading(leading)
    outer = np.sqrt(roots[:leading, None] * roots[:leading])
    for number, difference in enumerate(_differences(scaled[:, :leading], counts)):
        distances[number] += _distance(difference.astype(np.float64) * outer, roots[:leading])
        distances[number] -= (difference * difference * of_leading).sum(dtype=np.float64)
    return distances


def _differences(scaled: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """A − 1 of every resample of directions with variance 1 (n, r), in float32."""
    rows = _Rows(scaled)
    for row in counts:
        covariance = rows.covariance(row)
        covariance[np.diag_indices(len(covariance))] -= 1
        yield covariance


def _distance(gap: np.ndarray, second: np.ndarray) -> float:
    """tr A + tr B − 2 tr (A B)^½ of B = `second`, (r, r) or its diagonal (r,), and A = B + gap."""
    if second.ndim == 1:
        half = np.sqrt(second)
        inner = gap * half * half[:, None]
        inner[np.diag_indices(len(half))] += second**2
        return float(np.trace(gap) + 2 * second.sum() - 2 * root_sum(inner))
    half = np.linalg.cholesky(second)
    return float(np.trace(gap) + 2 * np.trace(second) - 2 * root_sum(half.T @ (second + gap) @ half))


def _missing_spread(deviations: np.ndarray, further: int) -> float:
    """Deviation of the second-order values of all pairs (r, r) over that of the first `further` directions' pairs."""
    computed = float((deviations[:further, :further] ** 2).sum())
    return math.sqrt(float((deviations**2).sum()) / computed) if computed else 1.0


class _Rows:
    """Rows (n, r) in float32, and a buffer for the rows of one resample."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = np.array(rows, np.float32)
        self._buffer = np.empty_like(self.rows)

    def drawn(self, there: np.ndarray) -> np.ndarray:
        """Some rows, in the memory that every resample uses again."""
        return np.take(self.rows, there, axis=0, out=self._buffer[: len(there)], mode="clip")

    def covariance(self, counts: np.ndarray) -> np.ndarray:
        """Covariance (r, r) of a resample; its denominator is images − 1."""
        there = np.flatnonzero(counts)
        roots = np.sqrt((counts[there] / (len(counts) - 1)).astype(np.float32))
        rows = self.drawn(there)
        rows *= roots[:, None]
        products, mean = rows.T @ rows, roots @ rows
        products -= np.outer(mean, mean) / np.float32(roots @ roots)
        return np.asarray(products)


@dataclass(frozen=True)
class _Products:
    """Coordinates of two sets over the roots of their variances: differences and sums (n, r), and the other set's."""

    differences: np.ndarray
    sums: np.ndarray
    other: np.ndarray

    @classmethod
    def of(cls, balanced: Balanced) -> "_Products":
        """Products of all directions, in float32."""
        assert balanced.other is not None
        scale = np.sqrt(balanced.roots)
        run, other = balanced.run / scale, balanced.other / scale
        return cls((run - other).astype(np.float32), (run + other).astype(np.float32), other.astype(np.float32))

    def variances(self) -> np.ndarray:
        """n² times the variance (r, r) of D over the roots, from fourth moments."""
        squares = self.sums**2
        crossed = (self.differences**2).T @ squares
        both = self.differences * self.sums
        return np.asarray((crossed + crossed.T + 2 * both.T @ both) / 4)

    def resampled(self, counts: np.ndarray, leading: int, further: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A − B of the first `further` directions and B of the `leading` ones, for every resample."""
        differences, sums = _Rows(self.differences[:, :further]), _Rows(self.sums[:, :further])
        other = _Rows(self.other[:, :leading])
        for row in counts:
            there = np.flatnonzero(row)
            shares = (row[there] / (len(row) - 1)).astype(np.float32)
            gap, weighed = differences.drawn(there), sums.drawn(there)
            weighed *= shares[:, None]  # one side carries the weight of both
            half = gap.T @ weighed
            half -= np.outer(shares @ gap, weighed.sum(axis=0)) / shares.sum()
            yield (half + half.T) / 2, other.covariance(row)
