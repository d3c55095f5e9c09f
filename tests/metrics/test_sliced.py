"""MIND against closed forms and brute force, and its first-order resamples against new sets of images."""

import math

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.metrics.bootstrap import multiplicities
from qdit.metrics.sliced import FACTOR, MANY_DIRECTIONS, directions, number_of_directions, sliced_distance


def features(images: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, size))


def by_repetition(x: np.ndarray, y: np.ndarray) -> float:
    """The definition: both samples repeated to one length, sorted along every direction."""
    length = math.lcm(len(x), len(y))
    x, y = np.repeat(x, length // len(x), axis=0), np.repeat(y, length // len(y), axis=0)
    gaps = [np.mean((np.sort(x @ u) - np.sort(y @ u)) ** 2) for u in directions(x.shape[1]).T]
    return float(FACTOR * x.shape[1] * np.mean(gaps))


@pytest.mark.parametrize(("images", "others"), [(6, 6), (6, 9), (9, 6), (5, 7), (1, 4)])
def test_it_is_the_mean_over_directions_also_of_unequal_numbers(images: int, others: int) -> None:
    x, y = features(images, 5), features(others, 5, seed=1) + 0.3
    assert sliced_distance(x, y).value == pytest.approx(by_repetition(x, y), rel=1e-9)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_a_shift_counts_three_times_its_square(size: int) -> None:
    x, shift = features(40, size), features(1, size, seed=2)
    assert sliced_distance(x + shift, x).value == pytest.approx(3 * (shift**2).sum(), rel=1e-9)


def test_directions_are_unit_vectors_fixed_and_in_orthonormal_bases() -> None:
    for size in (3, 64, 200):
        onto = directions(size)
        assert onto.shape == (size, number_of_directions(size)) and np.array_equal(onto, directions(size))
        np.testing.assert_allclose((onto**2).sum(axis=0), 1, rtol=1e-12)
        whole = onto[:, : min(size, onto.shape[1])]
        np.testing.assert_allclose(whole.T @ whole, np.eye(whole.shape[1]), atol=1e-12)
    assert number_of_directions(2048) == MANY_DIRECTIONS


def test_a_far_common_centre_costs_no_digits() -> None:
    x, y = features(50, 8), features(50, 8, seed=1)
    assert sliced_distance(x + 1e6, y + 1e6).value == pytest.approx(sliced_distance(x, y).value, rel=1e-6)


def test_images_in_the_order_of_full_precision_are_resampled_exactly() -> None:
    """So small a difference joins each image with its own: MIND is a mean over pairs, for every resample too."""
    y = features(30, 4)
    x, counts = y + 1e-9 * features(30, 4, seed=1), multiplicities(30, 20)
    values = sliced_distance(x, y, paired=True).resampled(counts)
    for value, times in zip(values, counts, strict=True):
        index = np.repeat(np.arange(30), times)
        assert value == pytest.approx(by_repetition(x[index], y[index]), rel=1e-3)


def test_influence_is_the_change_with_the_weight_of_an_image() -> None:
    """Each image counted once more and once less, among very many copies: the middle of both changes, per copy."""
    x, y, copies = features(7, 3), features(7, 3, seed=1), 300
    for paired in (False, True):
        sliced = sliced_distance(x, y, paired=paired)
        slopes = []
        for image in range(7):
            values = []
            for step in (1, -1):
                counts = np.full(7, copies)
                counts[image] += step
                more, others = (np.repeat(of, counts, axis=0) for of in (x, y))
                change = sliced_distance(more, others if paired else y).value - sliced.value
                values.append(step * change * counts.sum())
            slopes.append(np.mean(values))
        centred = sliced.influence - sliced.influence.mean()
        np.testing.assert_allclose(slopes, centred, atol=0.02 * np.abs(centred).max())


@pytest.mark.parametrize("damage", [0.05, 0.5])
def test_resamples_scatter_as_new_sets_of_images_do(damage: float) -> None:
    draw, counts = np.random.default_rng(3), multiplicities(100, 100)
    values, deviations = [], []
    for _ in range(60):
        full = draw.normal(size=(100, 8)) * np.linspace(0.3, 2, 8)
        run = full + damage * (0.3 + draw.normal(size=full.shape))
        sliced = sliced_distance(run, full, paired=True)
        values.append(sliced.value)
        deviations.append(sliced.resampled(counts).std())
    assert 0.8 < np.mean(deviations) / np.std(values) < 1.4


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="use one extractor"):
        sliced_distance(features(4, 3), features(4, 2))
    with pytest.raises(DataError, match="cannot be paired"):
        sliced_distance(features(4, 3), features(5, 3), paired=True)
    with pytest.raises(DataError, match="NaN or infinite"):
        sliced_distance(features(4, 3) * np.nan, features(4, 3))
