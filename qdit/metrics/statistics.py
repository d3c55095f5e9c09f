"""Mean and covariance of features in float64, from one array or from a stream of batches."""

from dataclasses import dataclass

import numpy as np

from qdit.core.errors import DataError


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d), float64. The covariance is divided by N − 1."""

    mean: np.ndarray
    covariance: np.ndarray


def require_matrix(name: str, values: np.ndarray, *, rows: int) -> np.ndarray:
    """Return `values` as a float64 matrix (N, d); DataError unless it is finite and N ≥ `rows`."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise DataError(f"{name}: found shape {matrix.shape}, allowed is (images, features); pass one row per image")
    if len(matrix) < rows:
        raise DataError(f"{name}: found {len(matrix)} images, at least {rows} are needed; sample more")
    bad = matrix.size - np.count_nonzero(np.isfinite(matrix))
    if bad:
        raise DataError(f"{name}: {bad} of {matrix.size} values are NaN or infinite; make the features again")
    return matrix


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance of features (N, d), N ≥ 2."""
    accumulator = MomentsAccumulator()
    accumulator.update(features)
    return accumulator.moments()


class MomentsAccumulator:
    """Adds up the moments of a stream of batches, by the pairwise update of Chan, Golub and LeVeque (1979), eq. 2.1."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None

    def update(self, features: np.ndarray) -> None:
        """Add a batch of features (n, d), n ≥ 1."""
        batch = require_matrix("features", features, rows=1)
        mean = batch.mean(axis=0)
        centred = batch - mean
        self._merge(len(batch), mean, centred.T @ centred)

    def merge(self, other: "MomentsAccumulator") -> None:
        """Add all features that another accumulator has seen."""
        if other._mean is not None and other._scatter is not None:
            self._merge(other.count, other._mean, other._scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if mean.shape != self._mean.shape:
            raise DataError(
                f"features: found {len(mean)} per image after batches of {len(self._mean)}; use one extractor"
            )
        total = self.count + count
        gap = mean - self._mean
        self._scatter += scatter + np.outer(gap, gap) * (self.count * count / total)
        self._mean += gap * (count / total)
        self.count = total

    def moments(self) -> Moments:
        """Mean and covariance of all features so far. DataError for fewer than two images."""
        if self._mean is None or self._scatter is None or self.count < 2:
            raise DataError(f"features: found {self.count} images, at least 2 are needed for a covariance; sample more")
        return Moments(self._mean.copy(), self._scatter / (self.count - 1))
