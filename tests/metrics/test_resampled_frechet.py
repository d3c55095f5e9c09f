"""Distances of resamples by products and by expansion, against the matrix root of each resample and closed forms."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qdit.metrics.bootstrap import multiplicities
from qdit.metrics.frechet import MANY_FEATURES
from qdit.metrics.resampled_expansion import (
    balance_pair,
    balance_to_reference,
    expanded_paired,
    expanded_to_reference,
)
from qdit.metrics.resampled_frechet import (
    direct_paired,
    direct_to_reference,
    paired,
    resampling_method,
    to_reference,
)
from qdit.metrics.resampled_gram import gram_paired, gram_to_reference
from qdit.metrics.scores import log_probabilities, score_of, scores_of_resamples
from qdit.metrics.statistics import Moments, moments

if TYPE_CHECKING:
    from qdit.mini.classifier import ClassifierExtractor

IMAGES = 512


def width(values: np.ndarray) -> float:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(high - low)


@pytest.fixture(scope="module")
def mini(
    digits: tuple[np.ndarray, np.ndarray], extractor: "ClassifierExtractor"
) -> Callable[[str, float], tuple[np.ndarray, np.ndarray, Moments]]:
    """Features of damaged digits, of the same digits, and moments of the others, by layer and damage."""
    images = digits[0].astype(np.float32) / 255 * 2 - 1
    order = np.random.default_rng(5).permutation(len(images))
    own, real = images[order[:IMAGES]], images[order[IMAGES:]]
    noise = np.random.default_rng(6).normal(size=own.shape).astype(np.float32)

    def features(layer: str, damage: float) -> tuple[np.ndarray, np.ndarray, Moments]:
        import torch

        from qdit.core.pixels import to_uint8

        sets = (own + damage * noise, own, real)
        run, full, others = (
            np.asarray(getattr(extractor(to_uint8(torch.from_numpy(pixels)).numpy()), layer), np.float64)
            for pixels in sets
        )
        return run, full, moments(others)

    return features


@pytest.mark.parametrize("layer", ["pool", "spatial"])
@pytest.mark.parametrize("damage", [0.02, 0.1, 0.4])
def test_intervals_of_the_miniature_are_as_wide_as_by_matrix_roots(
    layer: str, damage: float, mini: Callable[[str, float], tuple[np.ndarray, np.ndarray, Moments]]
) -> None:
    """The quarter of the directions that is exact is 16 of 64 here, as 512 of 2,048 are in the paper profile."""
    run, full, real = mini(layer, damage)
    counts = multiplicities(len(run), 200)
    pairs = [(direct_to_reference(run, counts, real), expanded_to_reference(run, counts, real))]
    if layer == "pool":  # FD-FP is of the pool features
        pairs.append((direct_paired(run, full, counts), expanded_paired(run, full, counts)))
    for exact, expanded in pairs:
        assert width(expanded) == pytest.approx(width(exact), rel=0.02)
        assert expanded.std() == pytest.approx(exact.std(), rel=0.01)
        assert np.corrcoef(exact, expanded)[0, 1] > 0.998


def test_all_directions_exact_is_the_distance_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdit.metrics.resampled_expansion.LEADING", 1.0)
    monkeypatch.setattr("qdit.metrics.resampled_expansion.SECOND_ORDER_PAIRED", 1.0)
    draw = np.random.default_rng(0)
    run, full, real = correlated(draw, 90, 12), correlated(draw, 90, 12), moments(correlated(draw, 300, 12))
    counts = multiplicities(90, 10)
    assert expanded_to_reference(run, counts, real) == pytest.approx(direct_to_reference(run, counts, real), rel=1e-5)
    assert expanded_paired(run, full, counts) == pytest.approx(direct_paired(run, full, counts), rel=1e-5)


def correlated(draw: np.random.Generator, images: int, size: int) -> np.ndarray:
    return draw.normal(size=(images, size)) @ draw.normal(size=(size, size)) / np.sqrt(size) + draw.normal(size=size)


def test_balanced_coordinates_share_one_diagonal_covariance() -> None:
    draw = np.random.default_rng(1)
    run, full = correlated(draw, 80, 9), correlated(draw, 80, 9)
    a, b = moments(run).covariance, moments(full).covariance
    roots = np.sqrt(np.sort(np.linalg.eigvals(a @ b).real)[::-1])
    pair = balance_pair(run, full)
    assert pair.roots == pytest.approx(roots, rel=1e-9)
    for side in (pair.run, pair.other):
        assert side is not None and moments(side).covariance == pytest.approx(np.diag(roots), abs=1e-9 * roots[0])
    assert balance_to_reference(run, moments(full)).roots == pytest.approx(roots, rel=1e-9)


def test_one_direction_has_a_closed_form() -> None:
    """Two images sets on a line: (Δμ)² + (σ_a − σ_b)² of every resample."""
    draw = np.random.default_rng(2)
    run, full = draw.normal(size=(50, 1)) * 2 + 1, draw.normal(size=(50, 1))
    counts = multiplicities(50, 20)
    sets = [[np.repeat(side[:, 0], row) for side in (run, full)] for row in counts]
    expected = [(a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2 for a, b in sets]
    assert expanded_paired(run, full, counts) == pytest.approx(expected, rel=1e-5)
    real = Moments(np.array([0.5]), np.array([[4.0]]))
    fixed = [(a.mean() - 0.5) ** 2 + (a.std(ddof=1) - 2) ** 2 for a, _ in sets]
    assert expanded_to_reference(run, counts, real) == pytest.approx(fixed, rel=1e-5)


def test_independent_gaussians_have_the_spread_of_the_delta_method() -> None:
    """Σ_i (μ_i² + (σ_i − 1)²) of independent directions: variance 4 μ² σ²/n + 2 (σ − 1)² σ²/n each."""
    draw, images = np.random.default_rng(3), 4000
    deviations, means = np.linspace(1.5, 2.5, 8), np.linspace(0.2, 0.5, 8)
    run = draw.normal(size=(images, 8)) * deviations + means
    values = expanded_to_reference(run, multiplicities(images, 400), Moments(np.zeros(8), np.eye(8)))
    variance = (4 * means**2 + 2 * (deviations - 1) ** 2) * deviations**2 / images
    assert values.std() == pytest.approx(np.sqrt(variance.sum()), rel=0.1)


def test_equal_sets_stay_at_distance_zero_and_a_tiny_damage_is_resolved() -> None:
    """The distance is 1e-9 of the traces, which float32 would not show. The roots hardly fall: the worst case."""
    draw = np.random.default_rng(4)
    full, noise = correlated(draw, 300, 40), draw.normal(size=(300, 40))
    counts = multiplicities(300, 40)
    assert expanded_paired(full, full, counts) == pytest.approx(0, abs=1e-10)
    run = full + 1e-4 * noise
    exact, expanded = direct_paired(run, full, counts), expanded_paired(run, full, counts)
    assert exact.mean() < 1e-6 and expanded.std() == pytest.approx(exact.std(), rel=0.18)


@pytest.mark.parametrize("images", [20, 35])
def test_products_of_pairs_are_exact(images: int) -> None:
    draw = np.random.default_rng(5)
    run, full, real = correlated(draw, images, 40), correlated(draw, images, 40), moments(correlated(draw, 90, 40))
    counts = multiplicities(images, 6)
    assert gram_to_reference(run, counts, real) == pytest.approx(direct_to_reference(run, counts, real), rel=1e-8)
    assert gram_paired(run, full, counts) == pytest.approx(direct_paired(run, full, counts), rel=1e-6)


def test_the_size_alone_chooses_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    for features in (64, 112, 192, MANY_FEATURES):
        assert {resampling_method(images, features) for images in (8, 512, 10_000)} == {"direct"}
    assert resampling_method(1000, 2048) == resampling_method(2048, 2048) == "gram"
    assert resampling_method(10_000, 2048) == resampling_method(10_000, 2023) == "expansion"


def test_few_features_keep_their_bits() -> None:
    draw = np.random.default_rng(6)
    run, full, real = correlated(draw, 60, 8), correlated(draw, 60, 8), moments(correlated(draw, 90, 8))
    counts = multiplicities(60, 5)
    assert np.array_equal(to_reference(run, counts, real), direct_to_reference(run, counts, real))
    assert np.array_equal(paired(run, full, counts), direct_paired(run, full, counts))


@pytest.mark.parametrize("images", [30, 1100])
def test_many_features_go_the_other_ways(images: int) -> None:
    draw = np.random.default_rng(7)
    size = MANY_FEATURES + 1
    run = draw.normal(size=(images, size)) * np.linspace(1, 0.05, size)
    counts, real = multiplicities(images, 2), Moments(np.zeros(size), np.eye(size))
    other = gram_to_reference if images == 30 else expanded_to_reference
    assert np.array_equal(to_reference(run, counts, real), other(run, counts, real))


def test_constant_features_have_no_direction() -> None:
    flat, counts = np.ones((30, 4)), multiplicities(30, 3)
    real = Moments(np.zeros(4), np.eye(4))
    assert expanded_to_reference(flat, counts, real) == pytest.approx(8)
    assert expanded_paired(flat, 2 * flat, counts) == pytest.approx(4)


def test_inception_scores_of_all_resamples_at_once() -> None:
    log_p = log_probabilities(np.random.default_rng(8).normal(size=(70, 12)) * 4)
    counts = multiplicities(70, 9)
    expected = [score_of(log_p, row) for row in counts]
    assert scores_of_resamples(log_p, counts) == pytest.approx(expected, rel=1e-12)
