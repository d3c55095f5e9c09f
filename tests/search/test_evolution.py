"""Algorithm 1 and random search: the invariants that hold whatever the fitness is."""

import random
from itertools import product

import pytest

from qdit.core.errors import ConfigError
from qdit.search.evolution import GenomeSampler, evolve, random_search
from qdit.search.journal import Journal, in_full
from qdit.search.option_classes import EvolutionOptions
from qdit.search.space import Layer, SearchSpace
from tests.search.toys import SPACE, Counted, loss

OPTIONS = EvolutionOptions(population=12, parents=4, crossover=5, mutation=5, iterations=5)


def run(fitness=loss, options=OPTIONS, space=SPACE, seed=3):
    return evolve(space, in_full(fitness, images=8, journal=Journal(None, {})), options, seed=seed)


@pytest.mark.parametrize("constraint", ["bitops", "mean_group"])
@pytest.mark.parametrize("reseed", [False, True])
def test_invariants(constraint, reseed):
    space = SearchSpace(SPACE.layers, SPACE.sizes, 16, constraint=constraint)
    options = EvolutionOptions(population=12, parents=4, crossover=5, mutation=5, iterations=5, reseed=reseed)
    fitness = Counted()
    outcome = run(fitness, options, space)
    genomes = [one.genome for one in outcome.evaluations]
    assert all(space.within(genome) for genome in genomes)
    assert len(set(genomes)) == len(genomes) == options.evaluations == len(fitness.asked)
    assert genomes[0] == space.start == space.uniform(16)
    assert outcome.best.fitness == min(map(loss, genomes)) <= loss(space.start)


def test_generations_are_bred_from_the_best_so_far():
    outcome = run()
    for iteration in range(1, 5):
        before = [one for one in outcome.evaluations if one.iteration < iteration]
        parents = sorted(before, key=lambda one: one.fitness)[:4]
        genes = [{one.genome[layer] for one in parents} for layer in range(8)]
        crossed = [o.genome for o in outcome.evaluations if o.iteration == iteration and o.origin == "crossover"]
        assert crossed
        for genome in crossed:
            assert all(gene in allowed for gene, allowed in zip(genome, genes, strict=True))
    assert {one.origin for one in outcome.evaluations} == {"start", "random", "crossover", "mutation"}


def test_search_gets_better_and_seeds_differ():
    assert (
        run().best.fitness
        < random_search(SPACE, in_full(loss, images=8, journal=Journal(None, {})), evaluations=12, seed=3).best.fitness
    )
    assert run().evaluations == run().evaluations
    assert run(seed=4).evaluations != run().evaluations


def test_global_random_state_is_left_alone():
    random.seed(5)
    state = random.getstate()
    run()
    assert random.getstate() == state


def test_reseeding_replays_the_stream():
    # every accepted genome restarts the stream: the n-th costs at least n draws
    sampler, draws = GenomeSampler(SPACE, 0, reseed=True), []

    def draw():
        draws.append(SPACE.random(sampler.rng))
        return draws[-1]

    found = sampler.accept(draw, 5, 1000)
    fresh = GenomeSampler(SPACE, 0)
    assert found == fresh.accept(lambda: SPACE.random(fresh.rng), 5, 1000)
    assert len(draws) >= 15
    assert sum(genome == draws[0] for genome in draws) >= 5


def test_exhausted_spaces_end():
    space = SearchSpace(tuple(Layer(str(n), 8, 8) for n in range(2)), (2, 4, 8), 4)
    legal = [genome for genome in product(space.sizes, repeat=2) if space.within(genome)]
    outcome = run(space=space, fitness=sum)
    assert {one.genome for one in outcome.evaluations} == set(legal)
    single = SearchSpace(space.layers, (4,), 4)
    assert [one.genome for one in run(space=single, fitness=sum).evaluations] == [(4, 4)]


def test_random_search():
    fitness = Counted()
    measure = in_full(fitness, images=8, journal=Journal(None, {}))
    outcome = random_search(SPACE, measure, evaluations=30, seed=1)
    genomes = [one.genome for one in outcome.evaluations]
    assert genomes[0] == SPACE.start and len(set(genomes)) == 30 == len(fitness.asked)
    assert all(map(SPACE.within, genomes))
    with pytest.raises(ConfigError, match="at least 1"):
        random_search(SPACE, measure, evaluations=0, seed=1)


@pytest.mark.parametrize(
    "wrong",
    [{"population": 0}, {"parents": 0}, {"mutation": -1}, {"population": 40}, {"mutation_probability": 1.5}],
)
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError):
        EvolutionOptions(**wrong)


def test_mutation_changes_few_genes_of_a_parent():
    children = GenomeSampler(SPACE, 0).mutation([SPACE.start], 30, 0.1)
    changed = [sum(a != b for a, b in zip(child, SPACE.start, strict=True)) for child in children]
    assert len(children) >= 5 and sum(changed) / len(changed) < 3
    assert GenomeSampler(SPACE, 0).mutation([SPACE.start], 5, 0.0) == []
