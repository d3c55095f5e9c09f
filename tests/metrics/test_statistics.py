"""Moments against numpy; a stream of batches against one shot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import DataError
from qdit.metrics.statistics import MomentsAccumulator, moments


def features(count: int, size: int, *, seed: int = 0) -> np.ndarray:
    return 100 + np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def test_one_shot_equals_numpy_in_float64() -> None:
    x = features(50, 7)
    found = moments(x)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-12, atol=1e-12)


@given(cuts=st.lists(st.integers(1, 39), unique=True), seed=st.integers(0, 10))
def test_any_stream_equals_one_shot(cuts: list[int], seed: int) -> None:
    x = features(40, 5, seed=seed)
    stream = MomentsAccumulator()
    for batch in np.split(x, sorted(cuts)):
        stream.update(batch)
    np.testing.assert_allclose(stream.moments().mean, moments(x).mean, rtol=1e-13)
    np.testing.assert_allclose(stream.moments().covariance, moments(x).covariance, rtol=1e-10, atol=1e-12)


def test_merging_two_streams_equals_one() -> None:
    x = features(30, 4)
    left, right, empty = MomentsAccumulator(), MomentsAccumulator(), MomentsAccumulator()
    left.update(x[:7])
    right.update(x[7:])
    left.merge(right)
    left.merge(empty)
    empty.merge(left)
    assert empty.count == left.count == 30
    np.testing.assert_allclose(empty.moments().covariance, moments(x).covariance, rtol=1e-10, atol=1e-12)


def test_moments_do_not_alias_the_stream() -> None:
    stream = MomentsAccumulator()
    stream.update(features(10, 3))
    before = stream.moments()
    copy = before.mean.copy()
    stream.update(features(10, 3, seed=1))
    np.testing.assert_array_equal(before.mean, copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((1, 3)), "found 1 images, at least 2"),
        (np.ones((0, 3)), "found 0 images"),
        (np.ones(3), "allowed is \\(images, features\\)"),
        (np.array([[1.0, np.nan], [0, np.inf]]), "2 of 4 values are NaN or infinite"),
    ],
)
def test_unusable_features_are_one_clear_line(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        moments(values)
    assert "\n" not in str(caught.value)


def test_batches_of_another_width_are_refused() -> None:
    stream = MomentsAccumulator()
    stream.update(np.ones((3, 4)))
    with pytest.raises(DataError, match="use one extractor"):
        stream.update(np.ones((3, 5)))
