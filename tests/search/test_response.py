"""The model of shifts: what it must know, what it cannot know, and that it finds out which layers matter."""

import numpy as np
import pytest

from qdit.search.response import SHARED, Response, similarity

LAYERS, SIZES, ELEMENTS = 10, 4, 40


class World:
    """Additive vectors, of which three layers have nearly all."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        strength = np.full(LAYERS, 0.05)
        strength[[2, 5, 6]] = 1
        self.vectors = self.rng.normal(size=(LAYERS, SIZES, ELEMENTS)) * strength[:, None, None]

    def genomes(self, count: int) -> np.ndarray:
        return self.rng.integers(SIZES, size=(count, LAYERS))

    def shifts(self, columns: np.ndarray) -> np.ndarray:
        return self.vectors[np.arange(LAYERS), columns].sum(axis=1)

    def fitted(self, count: int, noise: float, prior: np.ndarray | None = None) -> Response:
        columns = self.genomes(count)
        seen = self.shifts(columns) + self.rng.normal(size=(count, ELEMENTS)) * np.sqrt(noise)
        return Response.fit(columns, seen, np.full(count, noise), np.ones(LAYERS) if prior is None else prior)


def test_unseen_genomes_are_predicted() -> None:
    world = World()
    model, columns = world.fitted(60, 0.05), world.genomes(200)
    exact = (world.shifts(columns) ** 2).sum(axis=1)
    found = model.squared_length(columns)
    assert np.corrcoef(exact, found)[0, 1] > 0.97
    assert found.mean() == pytest.approx(exact.mean(), rel=0.1)


def test_it_finds_the_layers_that_matter() -> None:
    model = World().fitted(60, 0.05)
    assert set(np.argsort(model.variances)[-3:]) == {2, 5, 6}


def test_measured_genomes_are_known_where_there_is_no_noise() -> None:
    world = World(1)
    columns = world.genomes(12)
    model = Response.fit(columns, world.shifts(columns), np.full(12, 1e-9), np.ones(LAYERS))
    np.testing.assert_allclose(model.squared_length(columns), (world.shifts(columns) ** 2).sum(axis=1), rtol=1e-3)


def test_noise_teaches_nothing() -> None:
    """With measurements that are all noise every genome is about as long as any other."""
    world = World(2)
    found = world.fitted(6, 1e6).squared_length(world.genomes(50))
    assert found.std() < 0.05 * found.mean()


def test_the_expectation_of_the_posterior_is_the_mean_and_the_variance() -> None:
    """Against the textbook's formulas with the same variances."""
    world = World(3)
    columns, other = world.genomes(9), world.genomes(4)
    seen = world.shifts(columns)
    model = Response.fit(columns, seen, np.full(9, 0.5), np.ones(LAYERS))
    joint = similarity(np.concatenate([other, columns]), np.concatenate([other, columns])) @ model.variances
    inverse = model.precision
    mean = joint[:4, 4:] @ inverse @ seen
    left = np.diag(joint[:4, :4] - joint[:4, 4:] @ inverse @ joint[4:, :4])
    np.testing.assert_allclose(model.squared_length(other), (mean**2).sum(axis=1) + ELEMENTS * left, rtol=1e-9)


def test_measurements_without_noise_and_wild_ones_can_be_fitted() -> None:
    world = World(4)
    columns = world.genomes(5)
    seen = world.shifts(columns)
    assert np.isfinite(Response.fit(columns, seen, np.zeros(5), np.ones(LAYERS)).squared_length(columns)).all()
    twice = np.repeat(columns[:1], 3, axis=0)
    wild = np.array([seen[0], -1e3 * seen[0], seen[1]])
    assert np.isfinite(Response.fit(twice, wild, np.zeros(3), np.ones(LAYERS)).squared_length(columns)).all()


def test_where_nothing_moves_all_genomes_are_alike() -> None:
    columns = World().genomes(6)
    model = Response.fit(columns[:3], np.zeros((3, 4)), np.zeros(3), np.ones(LAYERS))
    assert (model.squared_length(columns[:3]) < 1e-3 * model.squared_length(columns[3:]).min()).all()


def test_similarity() -> None:
    found = similarity(np.array([[0, 1]]), np.array([[0, 1], [2, 1]]))
    np.testing.assert_array_equal(found, [[[1, 1], [SHARED, 1]]])
