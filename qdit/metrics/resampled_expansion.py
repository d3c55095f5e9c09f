"""Fréchet distances of resamples, approximately, for many features and more images than features.

**Balanced coordinates.** tr (Σ_a Σ_b)^½ does not change if features x become T x on one side and T⁻ᵀ x on the other.
One T makes both covariances the same diagonal matrix; its entries are the roots r of the eigenvalues of Σ_a Σ_b. Let
A and B be the covariances of a resample in these coordinates, D = A − B. Then

    tr (A B)^½ = ½ tr (A + B) − ¼ Σ_ij D_ij² / (r_i + r_j) + terms of third order.

The first term is linear in how often each image occurs (the influence function of the distance), and exact sums of N
numbers. The second one makes the spread of FD-FP near zero, where the first one vanishes.

**Leading directions.** In the quarter of the directions with the largest roots, the distance of A and B is computed
exactly instead: one Cholesky factor and the eigenvalues of a matrix of a quarter of the size. Pairs of further
directions (up to three eighths, or seven sixteenths of all) count to second order, all others to first order. So that
the spread is not too small, the deviations of the second-order values from their mean are multiplied: by the root of
the variance of all pairs that are not exact, over that of the computed ones. Both variances follow from fourth moments,
as if D_ij were independent and normal.

**Accuracy** on features of the mini profile: docs/protocol.md; tests/metrics/test_resampled_frechet.py repeats it.
Errors grow with fewer images per feature, and if the roots do not fall: with equal variances in 40 directions and
damage in all of them, the deviation of FD-FP is 16 % too small.

D is a sum over products of differences and sums of the two sides' coordinates, so nothing cancels if they are nearly
equal, and float32 is enough for products over images. Roots and the sums of first order are in float64.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from qdit.metrics.frechet import factor
from qdit.metrics.resampled_moments import distance_without_overlap, root_sum, traces
from qdit.metrics.statistics import Moments

LEADING = 1 / 4
"""Share of the directions in which a resample's distance is exact."""
SECOND_ORDER = 3 / 8
"""Share of the directions whose pairs count to second order or better, beside fixed moments."""
SECOND_ORDER_PAIRED = 7 / 16
"""The same between two resampled sets: close to zero their distance is of second order."""
ROUNDING = 1e-13
"""Eigenvalues below this share of the largest one are zero: float64 cannot tell them from it."""


@dataclass(frozen=True)
class Balanced:
    """Features of n images in balanced coordinates, about their mean, directions by falling root.

    `run` is (n, r), `other` the same of the other side or None if it is fixed, `roots` (r,) their common variances.
    """

    run: np.ndarray
    other: np.ndarray | None
    roots: np.ndarray


def expanded_to_reference(features: np.ndarray, counts: np.ndarray, reference: Moments) -> np.ndarray:
    """Fréchet distance (B,) of resampled features (n, d) to fixed moments; about 0.1 s each for 10,000 × 2,048."""
    balanced = balance_to_reference(features, reference)
    return _expanded(balanced, counts, distance_without_overlap(features, reference, counts))


def expanded_paired(features: np.ndarray, full: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fréchet distance (B,) between resampled features (n, d) and full-precision features with the same resamples."""
    balanced = balance_pair(features, full)
    return _expanded(balanced, counts, distance_without_overlap(features, full, counts))


def balance_to_reference(features: np.ndarray, reference: Moments) -> Balanced:
    """Balanced coordinates of features (n, d) beside a fixed covariance (d, d)."""
    centred = features - features.mean(axis=0)
    root = factor(reference.covariance)
    squares, vectors = _eigenvectors(root.T @ _covariance(centred) @ root)
    roots = np.sqrt(squares)
    return Balanced(centred @ (root @ vectors / np.sqrt(roots)), None, roots)


def balance_pair(features: np.ndarray, full: np.ndarray) -> Balanced:
    """Balanced coordinates of features (n, d) and of full-precision features of the same images."""
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
    """Distances (B,): all that is linear, less tr (A + B), plus the distance of A and B in balanced coordinates."""
    if not len(balanced.roots):
        return np.maximum(without_overlap, 0)
    sums = np.full(len(counts), balanced.roots.sum()) if balanced.other is None else 0.0
    for side in (balanced.run, balanced.other):
        if side is not None:
            sums = sums + traces(side, counts @ side / len(side), counts)
    return np.maximum(without_overlap - sums + balanced_distances(balanced, counts), 0)


def balanced_distances(balanced: Balanced, counts: np.ndarray) -> np.ndarray:
    """tr A + tr B − 2 tr (A B)^½ (B,), exact in the leading directions, to second order in the further ones."""
    products, roots = _Products.of(balanced), balanced.roots
    second_order = SECOND_ORDER if balanced.other is None else SECOND_ORDER_PAIRED
    leading, further = (math.ceil(share * len(roots)) for share in (LEADING, second_order))
    weights = roots[:, None] * roots / (2 * (roots[:, None] + roots))
    weights[:leading, :leading] = 0
    factor = _missing_spread(weights * products.variances(), further)
    products, weights = products.first(leading, further), weights[:further, :further].astype(np.float32)
    outer = np.sqrt(roots[:leading, None] * roots[:leading])
    exact, beyond = np.empty(len(counts)), np.empty(len(counts))
    for number, row in enumerate(counts):
        difference, other = products.resampled(row)
        beyond[number] = (difference * difference * weights).sum(dtype=np.float64)
        gap = difference[:leading, :leading].astype(np.float64) * outer
        exact[number] = _distance(gap, roots[:leading]) if other is None else _distance(gap, other * outer)
    return np.asarray(exact + beyond.mean() + factor * (beyond - beyond.mean()))


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


@dataclass(frozen=True)
class _Products:
    """Coordinates over the roots of their variances, in float32: differences and sums of both sides (n, r), and the
    other side's own. If that one is fixed, `differences` and `other` are None and `sums` the run's own.
    """

    differences: np.ndarray | None
    sums: np.ndarray
    other: np.ndarray | None
    _buffers: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, balanced: Balanced) -> "_Products":
        """Products of all directions."""
        scale = np.sqrt(balanced.roots)
        run = balanced.run / scale
        if balanced.other is None:
            return cls(None, run.astype(np.float32), None)
        other = balanced.other / scale
        return cls((run - other).astype(np.float32), (run + other).astype(np.float32), other.astype(np.float32))

    def first(self, leading: int, further: int) -> "_Products":
        """The first `further` directions, of the other side the `leading` ones, in memory of their own."""
        if self.differences is None or self.other is None:
            return _Products(None, self.sums[:, :further].copy(), None)
        differences, sums = self.differences[:, :further].copy(), self.sums[:, :further].copy()
        return _Products(differences, sums, self.other[:, :leading].copy())

    def variances(self) -> np.ndarray:
        """n² times the variance (r, r) of D over the roots, from fourth moments."""
        squares = self.sums**2
        if self.differences is None:
            return np.asarray(squares.T @ squares)
        crossed = (self.differences**2).T @ squares
        both = self.differences * self.sums
        return np.asarray((crossed + crossed.T + 2 * both.T @ both) / 4)

    def resampled(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A − B and B's leading part of one resample, over the roots of the variances."""
        there = np.flatnonzero(counts)
        shares = (counts[there] / (len(counts) - 1)).astype(np.float32)
        roots = np.sqrt(shares)
        if self.differences is None or self.other is None:
            covariance = self._covariance("sums", there, roots)
            covariance[np.diag_indices(len(covariance))] -= 1
            return covariance, None
        differences, sums = self._drawn("differences", there), self._drawn("sums", there)
        sums *= shares[:, None]  # one side carries the weight of both
        half = differences.T @ sums
        half -= np.outer(shares @ differences, sums.sum(axis=0)) / shares.sum()
        return (half + half.T) / 2, self._covariance("other", there, roots)

    def _covariance(self, name: str, there: np.ndarray, roots: np.ndarray) -> np.ndarray:
        """Covariance of one set in a resample; `roots` are those of counts / (images − 1)."""
        rows = self._drawn(name, there)
        rows *= roots[:, None]
        products, mean = rows.T @ rows, roots @ rows
        products -= np.outer(mean, mean) / np.float32(roots @ roots)
        return np.asarray(products)

    def _drawn(self, name: str, there: np.ndarray) -> np.ndarray:
        """Rows of one set, in memory that every resample uses again."""
        rows = getattr(self, name)
        buffer = self._buffers.setdefault(name, np.empty_like(rows))[: len(there)]
        return np.take(rows, there, axis=0, out=buffer, mode="clip")
