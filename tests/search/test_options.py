"""Options of the kinds of searches: what a profile may say is what the program knows."""

import re

import pytest

from qdit.core.errors import ConfigError
from qdit.search.options import KINDS, SAMPLED, RaceOptions, SearchOptions, doubled, parse_kind, parse_search_options


def test_kinds_that_sample_are_kinds():
    assert set(SAMPLED) < set(KINDS)
    assert all(isinstance(SearchOptions().of(kind), dict) for kind in KINDS)


def test_given_options_reach_their_part():
    options = parse_search_options("racing", {"population": 6, "crossover": 3, "mutation": 3, "rungs": [4, 8]})
    assert (options.evolution.population, options.race.rungs) == (6, (4, 8))
    assert options.of("racing")["population"] == 6 and "probes" not in options.of("racing")
    assert parse_search_options("hessian", {"probes": 2, "solver": "milp"}).hessian.probes == 2
    assert parse_search_options("ilp", {"solver": "milp"}).knapsack.solver == "milp"
    assert parse_search_options("response", {"genomes": [9, 3]}).response.genomes == (9, 3)
    assert parse_search_options("random", {"evaluations": 7}).random.evaluations == 7
    assert parse_search_options("evolution", {"mutation_probability": 1}).evolution.mutation_probability == 1


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("evolution", {"populaton": 3}, r"evolution has no option 'populaton'; .*did you mean 'population'\?"),
        ("evolution", {"rungs": [4]}, "evolution has no option 'rungs'"),
        ("uniform", {"population": 3}, "uniform has no option 'population'; it has none"),
        ("evolution", {"population": "3"}, "population is '3', expected a whole number"),
        ("evolution", {"population": True}, "population is True, expected a whole number"),
        ("evolution", {"reseed": 1}, "reseed is 1, expected true or false"),
        ("racing", {"keep": "all"}, "keep is .all., expected a number above 0 and of at most 1"),
        (
            "racing",
            {"rungs": [4, "8"]},
            r"rungs is \[4, .8.\], expected a list, each value a whole",
        ),
        ("racing", {"rungs": 8}, "expected a list.*, each value a whole number"),
        ("response", {"genomes": 8}, "expected a list.*, each value a whole number"),
        ("response", {"pool": 0}, "pool is 0, expected a whole number of at least 1"),
        ("ilp", {"solver": 1}, "solver is 1; allowed are dp, milp"),
        ("hessian", {"solver": "ga"}, "hessian: option solver is .ga.; allowed are dp, milp"),
        ("random", {"evaluations": 0}, "evaluations is 0, expected a whole number of at least 1"),
        ("evolution", {"population": 3}, "crossover 25"),
    ],
)
def test_options_that_do_not_exist_or_do_not_fit(kind, given, message):
    with pytest.raises(ConfigError, match=message):
        parse_search_options(kind, given)


def test_an_unknown_kind_is_refused():
    assert parse_kind("racing") == "racing"
    with pytest.raises(ConfigError, match=re.escape("'race': allowed are evolution, racing")):
        parse_kind("race")


def test_rungs_double_until_all_images():
    assert doubled(16, 64) == [16, 32, 64]
    assert doubled(16, 40) == [16, 32, 40]
    assert doubled(8, 8) == [8]
    assert RaceOptions().of(images=32, chunk=8, parents=3).rungs == (8, 16, 32)
    race = RaceOptions((8, 32), 0.5, 0.2, "ilp", 0.25).of(images=32, chunk=8, parents=3)
    assert (race.rungs, race.keep, race.margin, race.parents, race.surrogate_keep) == ((8, 32), 0.5, 0.2, 3, 0.25)
    with pytest.raises(ConfigError, match="32 images in chunks of 0"):
        RaceOptions().of(images=32, chunk=0, parents=3)
    with pytest.raises(ConfigError, match="the last one must be all 64 images"):
        RaceOptions((8, 32)).of(images=64, chunk=8, parents=3)
