"""Inception score and precision/recall against closed forms, brute force and torch-fidelity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import DataError
from qdit.metrics.scores import inception_score, precision_recall


def logits(count: int, classes: int = 10, *, seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=(count, classes)).astype(np.float32)


def plain_score(values: np.ndarray) -> float:
    p = np.exp(values.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    return float(np.exp(np.mean([(row * np.log(row / mean)).sum() for row in p])))


@pytest.mark.parametrize("classes", [2, 10])
def test_certain_and_balanced_predictions_score_the_number_of_classes(classes: int) -> None:
    certain = 1e4 * np.eye(classes)[np.arange(50 * classes) % classes]
    assert inception_score(certain) == pytest.approx(classes, rel=1e-12)


def test_uniform_and_equal_predictions_score_one() -> None:
    assert inception_score(np.zeros((20, 10))) == pytest.approx(1)
    assert inception_score(np.tile(logits(1), (20, 1))) == pytest.approx(1)


def test_a_class_that_is_never_seen_does_not_make_the_score_nan() -> None:
    never = np.zeros((8, 3))
    never[:, 2] = -1e6
    never[::2, 0] = never[1::2, 1] = 1e4
    assert inception_score(never) == pytest.approx(2)


def test_ten_thousand_images_are_two_consecutive_splits_of_five_thousand() -> None:
    values = np.concatenate([logits(5000), 0.1 * logits(5000, seed=1)])
    expected = (plain_score(values[:5000]) + plain_score(values[5000:])) / 2
    assert inception_score(values) == pytest.approx(expected, rel=1e-10)
    assert inception_score(values) != pytest.approx(plain_score(values), rel=1e-3)


def test_the_last_split_may_be_short_and_counts_fully() -> None:
    values = logits(8)
    parts = [plain_score(values[:3]), plain_score(values[3:6]), plain_score(values[6:])]
    assert inception_score(values, split_size=3) == pytest.approx(np.mean(parts), rel=1e-10)


@pytest.mark.parametrize(("count", "splits"), [(700, 1), (10_000, 2)])
def test_inception_score_against_torch_fidelity(count: int, splits: int) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    values = logits(count)
    expected = isc_features_to_metric(torch.from_numpy(values), splits=splits, shuffle=False)
    assert inception_score(values) == pytest.approx(expected["inception_score_mean"], rel=1e-10)


def brute_force(real: np.ndarray, fake: np.ndarray, neighbours: int) -> tuple[float, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - b) ** 2).sum())

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radii = [sorted(distance(c, other) for other in centres)[neighbours] for c in centres]
        inside = [any(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return float(np.mean(inside))

    return covered(fake, real), covered(real, fake)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    counts=st.tuples(st.integers(5, 25), st.integers(5, 25)),
    shift=st.floats(0, 2),
    neighbours=st.integers(1, 4),
    block=st.integers(1, 30),
)
def test_precision_recall_against_brute_force(
    seed: int, counts: tuple[int, int], shift: float, neighbours: int, block: int
) -> None:
    draw = np.random.default_rng(seed)
    real, fake = draw.normal(size=(counts[0], 3)), shift + draw.normal(size=(counts[1], 3))
    found = precision_recall(real, fake, neighbours=neighbours, block=block)
    assert found == pytest.approx(brute_force(real, fake, neighbours))


def test_precision_recall_against_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(400, 8)), 0.4 + 1.1 * draw.normal(size=(300, 8))
    expected = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real))
    assert precision_recall(real, fake) == pytest.approx(expected, abs=1e-6)
    assert expected[0] != pytest.approx(expected[1], abs=0.01), "the test could not tell precision from recall"


def test_precision_and_recall_are_not_swapped() -> None:
    draw = np.random.default_rng(0)
    everywhere = draw.normal(size=(400, 2))
    one_mode = 0.05 * draw.normal(size=(400, 2))
    precision, recall = precision_recall(everywhere, one_mode)
    assert precision == 1
    assert recall < 0.1


def test_same_set_and_far_set() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 1000) == (0, 0)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.ones((3, 2)), np.ones((9, 2)), "reference features: found 3 images, at least 4"),
        (np.ones((9, 2)), np.ones((0, 2)), "generated features: found 0 images"),
        (np.ones((9, 2)), np.ones((9, 3)), "use one extractor"),
        (np.ones((9, 2)), np.full((9, 2), np.nan), "NaN"),
    ],
)
def test_unusable_features_are_refused(real: np.ndarray, fake: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        precision_recall(real, fake)


def test_no_logits_are_refused() -> None:
    with pytest.raises(DataError, match="found 0 images"):
        inception_score(np.ones((0, 10)))
