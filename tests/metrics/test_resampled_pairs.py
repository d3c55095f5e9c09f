"""The second-order part of resampled distances: against its definition, and the weights against all pairs."""

import numpy as np
import pytest

from qdit.metrics.bootstrap import multiplicities
from qdit.metrics.resampled_pairs import MISSED, MOST, Weights, pair_weights, second_order

ROOTS = {
    "falling": np.arange(1, 81) ** -1.2,
    "flat": np.linspace(1, 0.9, 80),
    "steep": np.exp(-np.arange(80) / 4.0),
    "few": np.array([3.0, 1.0, 0.5]),
}


def exact_weights(roots: np.ndarray) -> np.ndarray:
    return roots[:, None] * roots / (2 * (roots[:, None] + roots))


def scaled_images(draw: np.random.Generator, images: int, size: int) -> np.ndarray:
    """Images of heavy-tailed directions whose mean is 0 and whose covariance is 1, as the expansion scales them."""
    rows = draw.standard_t(6, size=(images, size))
    rows -= rows.mean(axis=0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T


@pytest.mark.parametrize("size", [3, 40])
def test_products_of_images_give_the_sum_over_pairs(size: int) -> None:
    """Means of resamples count too: D is the difference of covariances with n − 1, computed here from repeated rows."""
    draw, images = np.random.default_rng(0), 120
    scaled, counts = scaled_images(draw, images, size), multiplicities(images, 8)
    weights = exact_weights(np.linspace(2, 0.1, size))
    gaps = [np.cov(np.repeat(scaled, row, axis=0).T) - np.eye(size) for row in counts]
    expected = [(weights * gap**2).sum() for gap in gaps]
    values, vectors = np.linalg.eigh(weights)
    computed = second_order(scaled.astype(np.float32), counts, Weights(values, vectors))
    assert computed == pytest.approx(expected, rel=1e-4)


def test_more_images_than_a_block_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, images = np.random.default_rng(1), 90
    scaled, counts = scaled_images(draw, images, 6).astype(np.float32), multiplicities(images, 5)
    weights = pair_weights(np.linspace(2, 0.1, 6), 2)
    at_once = second_order(scaled, counts, weights)
    monkeypatch.setattr("qdit.metrics.resampled_pairs.BLOCK", 32)
    assert second_order(scaled, counts, weights) == pytest.approx(at_once, rel=1e-4)


@pytest.mark.parametrize("name", list(ROOTS))
def test_few_eigenvectors_miss_little_outside_the_leading_directions(name: str) -> None:
    roots = ROOTS[name]
    leading = -(-len(roots) // 4)
    weights, exact = pair_weights(roots, leading), exact_weights(roots)
    missed = exact - (weights.vectors * weights.values) @ weights.vectors.T
    missed[:leading, :leading] = 0
    assert np.linalg.norm(missed) <= MISSED * np.linalg.norm(exact)
    assert len(weights.values) <= min(MOST, len(roots))
    of_leading = ((weights.vectors * weights.values) @ weights.vectors.T)[:leading, :leading]
    assert weights.of_leading(leading) == pytest.approx(of_leading, rel=1e-4, abs=1e-6)


def test_weights_are_the_same_in_every_process() -> None:
    first, again = pair_weights(ROOTS["falling"], 20), pair_weights(ROOTS["falling"], 20)
    assert np.array_equal(first.values, again.values) and np.array_equal(first.vectors, again.vectors)
