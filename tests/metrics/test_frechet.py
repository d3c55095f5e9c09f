"""The Fréchet distance against closed forms, scipy's matrix root and torch-fidelity."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import DataError
from qdit.metrics.frechet import Target, distance_to, factor, frechet_distance, is_thin, square_root
from qdit.metrics.statistics import Moments, moments


def gaussian(size: int, seed: int) -> Moments:
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(size, size))
    return Moments(draw.normal(size=size), root @ root.T / size)


@given(means=st.tuples(st.floats(-5, 5), st.floats(-5, 5)), deviations=st.tuples(st.floats(0, 10), st.floats(0, 10)))
def test_one_dimension(means: tuple[float, float], deviations: tuple[float, float]) -> None:
    a, b = (Moments(np.array([m]), np.array([[s**2]])) for m, s in zip(means, deviations, strict=True))
    expected = (means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-10)


def test_diagonal_closed_form() -> None:
    draw = np.random.default_rng(0)
    variances = draw.uniform(0.1, 4, size=(2, 20))
    means = draw.normal(size=(2, 20))
    a, b = (Moments(m, np.diag(v)) for m, v in zip(means, variances, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(variances[0]) - np.sqrt(variances[1])) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_general_covariances_against_sqrtm(seed: int) -> None:
    a, b = gaussian(12, seed), gaussian(12, seed + 100)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    gap = a.mean - b.mean
    expected = gap @ gap + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("count", "size"), [(300, 16), (40, 64)])
def test_against_torch_fidelity(count: int, size: int) -> None:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    draw = np.random.default_rng(1)
    a, b = moments(draw.normal(size=(count, size))), moments(0.3 + 1.2 * draw.normal(size=(count, size)))
    expected = fid_statistics_to_metric(
        {"mu": a.mean, "sigma": a.covariance}, {"mu": b.mean, "sigma": b.covariance}, verbose=False
    )["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "size"), [(500, 30), (10, 200)])
def test_identical_sets_are_at_distance_zero(count: int, size: int) -> None:
    a = moments(5 + np.random.default_rng(2).normal(size=(count, size)))
    assert 0 <= frechet_distance(a, a) < 1e-9


def test_constant_images_have_a_distance() -> None:
    a = Moments(np.zeros(3), np.zeros((3, 3)))
    b = Moments(np.array([1.0, 2.0, 2.0]), np.eye(3))
    assert frechet_distance(a, b) == pytest.approx(9 + 3)


@given(seed=st.integers(0, 1000))
def test_symmetric_and_invariant_to_rotation(seed: int) -> None:
    a, b = gaussian(6, seed), gaussian(6, seed + 5000)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    rotated = [Moments(rotation @ m.mean, rotation @ m.covariance @ rotation.T) for m in (a, b)]
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert distance == pytest.approx(frechet_distance(*rotated), rel=1e-8)


def test_float32_statistics_give_a_float64_distance() -> None:
    a, b = gaussian(8, 0), gaussian(8, 1)
    rounded = Moments(a.mean.astype(np.float32), a.covariance.astype(np.float32))
    assert frechet_distance(rounded, b) == pytest.approx(frechet_distance(a, b), rel=1e-5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Moments(np.array([0.0, np.nan]), np.eye(2)), "NaN or infinity"),
        (Moments(np.zeros(2), np.array([[1.0, np.inf], [0, 1]])), "NaN or infinity"),
        (Moments(np.zeros(3), np.eye(3)), "cannot be compared"),
        (Moments(np.zeros(2), np.eye(3)), "allowed are \\(d,\\) and \\(d, d\\)"),
        (Moments(np.zeros(2), np.diag([1.0, -1.0])), "eigenvalue"),
    ],
)
def test_unusable_moments_are_refused(other: Moments, message: str) -> None:
    good = Moments(np.zeros(2), np.eye(2))
    for pair in ((good, other), (other, good)):
        with pytest.raises(DataError, match=message):
            frechet_distance(*pair)


def test_covariances_without_common_directions_do_not_overlap() -> None:
    """Rounding makes zero eigenvalues 1e-16, whose roots must not add up to an overlap."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
    first, second = rotation[:, :100], rotation[:, 100:]
    a, b = (Moments(np.zeros(200), half @ half.T) for half in (first, second))
    assert frechet_distance(a, b) == pytest.approx(200, abs=1e-9)


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdit.metrics.frechet.MANY_FEATURES", 20)


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("others", [15, 300])
def test_fewer_images_than_features_need_no_root(others: int) -> None:
    """Against the distance of moments, for a target of fewer and of more images than features, and one of moments."""
    draw = np.random.default_rng(3)
    mixing = draw.normal(size=(60, 60))
    features, full = draw.normal(size=(25, 60)) @ mixing, 0.3 + draw.normal(size=(others, 60)) @ mixing
    assert is_thin(features)
    expected = frechet_distance(moments(features), moments(full))
    assert distance_to(Target.of(full), features) == pytest.approx(expected, rel=1e-8)
    assert distance_to(Target(moments(full)), features) == pytest.approx(expected, rel=1e-8)
    assert distance_to(Target.of(features), features) == pytest.approx(0, abs=1e-9 * expected)


def test_few_features_keep_the_bits_of_the_distance_of_moments() -> None:
    """Of 32 images with 64 features, as racing in the miniature sees them."""
    draw = np.random.default_rng(4)
    features, full = draw.normal(size=(32, 64)), draw.normal(size=(32, 64))
    assert not is_thin(features)
    assert distance_to(Target.of(full), features) == frechet_distance(moments(features), moments(full))


@pytest.mark.usefixtures("few_are_many")
def test_unusable_features_are_refused() -> None:
    target = Target(Moments(np.zeros(30), np.eye(30)))
    with pytest.raises(DataError, match="cannot be compared"):
        distance_to(target, np.zeros((5, 31)))
    with pytest.raises(DataError, match="NaN or infinite"):
        distance_to(target, np.full((5, 30), np.nan))
    with pytest.raises(DataError, match="target moments: hold NaN"):
        distance_to(Target(Moments(np.full(30, np.nan), np.eye(30))), np.zeros((5, 30)))


@pytest.mark.parametrize("rank", [70, 52])
def test_many_features_give_the_distance_of_symmetric_roots(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cholesky factors where they are clear, the symmetric root where a covariance has no full rank; in float64."""
    monkeypatch.setattr("qdit.metrics.frechet.MANY_FEATURES", 51)
    draw, size = np.random.default_rng(7), 52
    falling = np.arange(1, size + 1) ** -1.0
    sets = [moments(draw.normal(size=(rank + 1, size)) * falling + mean) for mean in (0.0, 0.1)]
    if rank == size:  # two directions without any spread
        for part in sets:
            part.covariance[-2:], part.covariance[:, -2:] = 0, 0
    roots = [square_root(part.covariance) for part in sets]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    gap = sets[0].mean - sets[1].mean
    expected = gap @ gap + sum(np.trace(part.covariance) for part in sets) - 2 * overlap
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-9)
    for part in sets:
        result = factor(part.covariance)
        assert result @ result.T == pytest.approx(part.covariance, abs=1e-12)
        assert np.array_equal(result, np.tril(result)) == (rank > size)
