"""The squared length of a shift is the Fréchet distance to second order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.search.tangent import Tangent, mean_and_noise, shortened


def pair(size: float, seed: int = 0, *, along: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal variances and moved ones; every image moves equally far, so that none is shortened."""
    rng = np.random.default_rng(seed)
    sphere = rng.normal(size=(4000, 5))
    sphere *= np.sqrt(5) / np.linalg.norm(sphere, axis=1, keepdims=True)
    full = sphere * [2.0, 1.0, 0.5, 0.2, 0.1]
    if along is not None:
        return full, full + size * along
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    return full, full + size * sphere @ turn


def length(full: np.ndarray, moved: np.ndarray) -> float:
    shift = Tangent(full)(full, moved)
    return float(shift.mean @ shift.mean + shift.cross @ shift.cross)


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_of_turned_images_to_second_order(seed: int) -> None:
    full, moved = pair(1e-3, seed)
    exact = frechet_distance(moments(moved), moments(full))
    assert length(full, moved) == pytest.approx(exact, rel=0.06)  # what is added to the eigenvalues takes most of it


def test_a_common_step_is_its_length() -> None:
    full, moved = pair(1e-2, along=np.array([3.0, 0, 4, 0, 0]))
    assert length(full, moved) == pytest.approx(25e-4, rel=0.02)


def test_no_difference_is_no_distance() -> None:
    full, _ = pair(0)
    shift = Tangent(full)(full, full)
    assert not shift.mean.any() and not shift.cross.any() and shift.mean_noise == shift.cross_noise == 0


def test_fewer_images_than_dimensions_give_finite_shifts() -> None:
    full, moved = pair(1e-2)
    shift = Tangent(full[:4])(full[:4], moved[:4])
    assert np.isfinite(shift.cross).all()


def test_one_wild_image_does_not_decide() -> None:
    full, moved = pair(1e-3)
    wild = moved.copy()
    wild[0] += 1000
    calm, with_it = Tangent(full)(full, moved), Tangent(full)(full, wild)
    assert np.abs(calm.mean - with_it.mean).max() < 1e-5


@given(arrays(np.float64, (7, 3), elements=st.floats(-1e3, 1e3)))
def test_shortened_rows_keep_their_direction(rows: np.ndarray) -> None:
    short, lengths = shortened(rows), np.linalg.norm(rows, axis=1)
    median = np.median(lengths)
    assert (np.linalg.norm(short, axis=1) <= median * (1 + 1e-9)).all()
    below = lengths <= median
    np.testing.assert_allclose(short[below], rows[below])
    np.testing.assert_allclose(short * lengths[:, None], rows * np.linalg.norm(short, axis=1)[:, None], atol=1e-3)


def test_noise_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    means = np.array([mean_and_noise(rng.normal(size=(16, 50)))[0] for _ in range(400)])
    noises = [mean_and_noise(rng.normal(size=(16, 50)))[1] for _ in range(400)]
    assert np.mean(noises) == pytest.approx(means.var(), rel=0.05)
