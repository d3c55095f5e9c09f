"""MSE-FP against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import DataError
from qdit.metrics.paired import mse_per_image, stream_errors


def images(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(count, 2, 3, 3), dtype=np.uint8)


def test_black_against_white_is_one_and_equal_is_zero() -> None:
    black = np.zeros((5, 1, 8, 8), np.uint8)
    assert (mse_per_image(black, black + 255) == 1).all()
    assert (mse_per_image(black + 255, black) == 1).all()
    assert not mse_per_image(black, black).any()


def test_one_grey_level_is_one_over_255_squared() -> None:
    black = np.zeros((2, 1, 8, 8), np.uint8)
    other = black.copy()
    other[1] += 1
    np.testing.assert_allclose(mse_per_image(other, black), [0, 1 / 255**2], rtol=1e-12)


@given(count=st.integers(1, 150), seed=st.integers(0, 100))
def test_per_image_values_are_those_of_each_pair(count: int, seed: int) -> None:
    a, b = images(count, seed=seed), images(count, seed=seed + 1)
    expected = [np.mean((x / 255 - y / 255) ** 2) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(mse_per_image(a, b), expected, rtol=1e-10)


@given(
    cuts=st.lists(st.integers(0, 40), max_size=6),
    others=st.lists(st.integers(0, 40), max_size=6),
    seed=st.integers(0, 9),
)
def test_streams_cut_anywhere_give_the_same_values(cuts: list[int], others: list[int], seed: int) -> None:
    a, b = images(40, seed=seed), images(40, seed=seed + 1)
    streamed = stream_errors(np.split(a, sorted(cuts)), np.split(b, sorted(others)))
    np.testing.assert_array_equal(streamed, mse_per_image(a, b))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([3, 2], [3, 1], "4 full-precision images and more of the run"),
        ([3, 1], [5], "4 images of the run and more of full precision"),
        ([3], [], "0 full-precision images"),
        ([], [], "found 0 images"),
    ],
)
def test_streams_of_other_lengths_are_refused(a: list[int], b: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream_errors([images(count) for count in a], [images(count) for count in b])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (images(3), images(4), "cannot be paired"),
        (images(0), images(0), "found 0 images"),
        (images(3).astype(np.float32), images(3), "allowed is uint8"),
    ],
)
def test_unusable_images_are_refused(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mse_per_image(a, b)
