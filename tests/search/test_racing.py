"""Racing: fewer images, and a winner that is among the best on all of them."""

import math
from collections import defaultdict

import pytest

from qdit.core.errors import ConfigError
from qdit.search.evolution import Evaluation, evolve, random_search
from qdit.search.journal import Journal, in_full
from qdit.search.option_classes import EvolutionOptions, RacingOptions
from qdit.search.racing import Race
from tests.search.toys import SPACE, loss, noisy

IMAGES = 64
OPTIONS = EvolutionOptions(population=30, parents=6, crossover=14, mutation=14, iterations=6)
RACING = RacingOptions((4, 16, IMAGES), parents=6)


class Meter:
    """A noisy fitness that counts images and refuses prefixes out of order."""

    def __init__(self) -> None:
        self.longest: dict[tuple[int, ...], int] = defaultdict(int)

    def __call__(self, genome, images):
        assert images > self.longest[genome]
        self.longest[genome] = images
        return noisy(genome, images)


def race(options=RACING, seed=0, surrogate=None, fitness=None):
    journal = Journal(None, {})
    measure = Race(fitness or Meter(), options, journal, frozenset({SPACE.start}), surrogate)
    return evolve(SPACE, measure, OPTIONS, seed=seed), journal, measure


@pytest.mark.parametrize("surrogate", [None, loss])
def test_fewer_images_and_a_good_winner(surrogate):
    others = random_search(SPACE, in_full(loss, images=1, journal=Journal(None, {})), evaluations=500, seed=99)
    ranking = sorted(one.fitness for one in others.evaluations)
    for seed in range(5):
        outcome, journal, measure = race(seed=seed, surrogate=surrogate)
        assert journal.images_sampled == sum(measure.fitness.longest.values())
        assert journal.images_sampled < OPTIONS.evaluations * IMAGES / (5 if surrogate is None else 8)
        assert outcome.best.images == IMAGES
        assert outcome.best.fitness <= noisy(SPACE.start, IMAGES)
        assert loss(outcome.best.genome) <= ranking[len(ranking) // 20]


def test_reference_and_winners_run_to_the_end():
    outcome, journal, _ = race()
    start = outcome.evaluations[0]
    assert start.genome == SPACE.start and start.images == IMAGES
    for one in outcome.evaluations:
        rungs = [images for genome, images in journal.entries if genome == one.genome]
        assert rungs == [rung for rung in RACING.rungs if rung <= one.images]
        assert one.fitness == journal.entries[one.genome, one.images]
    assert all(map(SPACE.within, (one.genome for one in outcome.evaluations)))


def test_halving():
    outcome, _, _ = race(RacingOptions((4, 16, IMAGES), keep=0.25, margin=math.inf, parents=6))
    counts = defaultdict(lambda: defaultdict(int))
    for one in outcome.evaluations:
        counts[one.iteration][one.images] += 1
    # 30 → 8 → 2; in the first generation the reference comes on top unless it is among them
    for iteration in range(1, OPTIONS.iterations):
        assert counts[iteration] == {4: 22, 16: 6, IMAGES: 2}
        assert sum(images * count for images, count in counts[iteration].items()) == RACING.most_images(30)


def test_the_bar_alone_saves_images():
    outcome, journal, _ = race(RacingOptions((4, 16, IMAGES), keep=1, margin=0, parents=6))
    first = [one.images for one in outcome.evaluations if one.iteration == 0]
    assert first == [IMAGES] * 30
    assert journal.images_sampled < 0.9 * OPTIONS.evaluations * IMAGES
    free, journal, _ = race(RacingOptions((4, 16, IMAGES), keep=1, margin=math.inf, parents=6))
    assert journal.images_sampled == OPTIONS.evaluations * IMAGES
    assert free.best.images == IMAGES


def test_one_rung_is_plain_algorithm_1():
    raced, _, _ = race(RacingOptions((IMAGES,), parents=6))
    measure = in_full(lambda genome: noisy(genome, IMAGES), images=IMAGES, journal=Journal(None, {}))
    assert raced == evolve(SPACE, measure, OPTIONS, seed=0)


def test_diverging_candidates_lose():
    def fitness(genome, images):
        return noisy(genome, images) if genome[0] == 16 else math.nan

    outcome, _, _ = race(fitness=fitness)
    assert outcome.best.genome[0] == 16 and math.isfinite(outcome.best.fitness)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rungs": ()},
        {"rungs": (4, 2)},
        {"rungs": (2, 2)},
        {"rungs": (0, 2)},
        {"rungs": (2,), "keep": 0},
        {"rungs": (2,), "margin": -1},
        {"rungs": (2,), "margin": math.nan},
        {"rungs": (2,), "surrogate_keep": 2},
        {"rungs": (2,), "parents": 0},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError):
        RacingOptions(**wrong)


def test_the_bar_is_the_weakest_of_the_best_on_the_same_images():
    genomes = [SPACE.uniform(size) for size in (4, 8, 16, 24)]
    before = [Evaluation(genome, place, 8, 0, "random") for place, genome in enumerate(genomes)]
    before.append(Evaluation(genomes[3], -1.0, 4, 0, "random"))  # few images: no champion
    few = dict(zip(genomes, (5.0, 7.0, 1.0, 100.0), strict=True))
    options = RacingOptions((4, 8), parents=2, margin=0.5)
    race = Race(lambda genome, images: few[genome], options, Journal(None, {}), frozenset())
    champions = race._champions(before)
    assert champions == genomes[:2]
    assert race._bar(champions, 4) == 1.5 * 7.0
    assert race._bar([], 4) == math.inf
