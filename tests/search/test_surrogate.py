"""The surrogate of a race: scores before it has seen anything, what was measured afterwards, the knapsack's optimum."""

import itertools
import math

import numpy as np
import pytest

from qdit.search.evolution import Nursery
from qdit.search.knapsack import allocate
from qdit.search.space import Layer, SearchSpace
from qdit.search.surrogate import FEWEST, PENALTIES, Surrogate, fit
from tests.search.toys import SPACE

SMALL = SearchSpace(tuple(Layer(f"layer{n}", 48, 12 * (1 + n % 2)) for n in range(3)), (4, 8, 16, 24), 16)
SCORES = np.random.default_rng(0).uniform(1, 5, (len(SPACE.layers), len(SPACE.sizes)))
TRUE = np.random.default_rng(1).normal(0, 0.5, SCORES.shape)


def truth(genome):
    return math.exp(sum(TRUE[layer, SPACE.sizes.index(size)] for layer, size in enumerate(genome)) - 4)


def genomes(count, seed=0):
    return Nursery(SPACE, seed).random(count)


def test_before_it_has_learned_it_is_the_scores_and_its_choice_the_rivals():
    surrogate = Surrogate(SPACE, SCORES)
    assert surrogate.best() == allocate(SPACE, SCORES)
    start = sum(SCORES[layer, SPACE.sizes.index(size)] for layer, size in enumerate(SPACE.start))
    for genome in genomes(10):
        total = sum(SCORES[layer, SPACE.sizes.index(size)] for layer, size in enumerate(genome))
        assert surrogate(genome) == pytest.approx(total / start)
    surrogate.learn(dict.fromkeys(genomes(FEWEST - 1), 1.0))
    assert surrogate.table is surrogate.prior


def test_its_choice_is_the_best_of_the_whole_space():
    scores = np.random.default_rng(2).uniform(0, 1, (3, 4))
    surrogate = Surrogate(SMALL, scores)
    legal = [g for g in itertools.product(SMALL.sizes, repeat=3) if SMALL.within(g)]
    assert surrogate(surrogate.best()) == pytest.approx(min(map(surrogate, legal)))


def test_measurements_correct_wrong_scores():
    """The scores say nothing about the truth; after enough measurements its order of unseen genomes is the true one."""
    surrogate, unseen = Surrogate(SPACE, SCORES), genomes(200, seed=5)
    seen = [genome for genome in genomes(150) if genome not in unseen]

    def rank_correlation():
        guess, true = (np.argsort(np.argsort([f(g) for g in unseen])) for f in (surrogate, truth))
        return np.corrcoef(guess, true)[0, 1]

    before = rank_correlation()
    surrogate.learn({genome: truth(genome) for genome in seen[:75]})
    surrogate.learn({genome: truth(genome) for genome in seen[75:]})
    assert before < 0.6 and rank_correlation() > 0.95
    assert truth(surrogate.best()) <= min(map(truth, seen))


def test_right_scores_are_kept_when_there_are_few_measurements():
    """log fitness is the scores and a constant: measurements that say so leave the table as it is."""
    surrogate = Surrogate(SPACE, SCORES)
    surrogate.learn({genome: math.exp(5 + Surrogate(SPACE, SCORES)(genome)) for genome in genomes(6)})
    assert surrogate.table == pytest.approx(surrogate.prior, abs=1e-6)


def test_what_is_not_finite_teaches_nothing():
    surrogate = Surrogate(SPACE, SCORES)
    surrogate.learn(dict(zip(genomes(8), [math.inf, math.nan, 0.0, -1.0] * 2, strict=True)))
    assert not surrogate.measured and surrogate.table is surrogate.prior


def test_the_strength_predicts_left_out_rows_best():
    draw = np.random.default_rng(3)
    design = np.column_stack([np.ones(30), draw.normal(size=(30, 12))])
    values = design @ draw.normal(size=13) + draw.normal(size=30)

    def solved(rows, penalty):
        ridge = np.diag([1e-9, *[penalty] * 12])
        return np.linalg.solve(design[rows].T @ design[rows] + ridge, design[rows].T @ values[rows])

    def left_out(penalty):
        rows = np.arange(30)
        return sum((values[i] - design[i] @ solved(rows != i, penalty)) ** 2 for i in rows)

    best = min(PENALTIES, key=left_out)
    assert fit(design, values) == pytest.approx(solved(np.full(30, True), best), rel=1e-6)
