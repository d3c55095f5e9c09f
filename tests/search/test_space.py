"""The search space: budget in exact integers, legal sizes, random draws."""

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import ConfigError
from qdit.models.dit import DIT_XL_2_256
from qdit.search.knapsack import allocate
from qdit.search.latency import LatencyModel
from qdit.search.space import RESCALE_COST, Layer, SearchSpace
from tests.small_models import random_dit

PAPER_SIZES = (32, 64, 128, 192, 288)


def dit_xl(**options: object) -> SearchSpace:
    width, layers = DIT_XL_2_256.hidden_size, []
    for block in range(DIT_XL_2_256.depth):
        shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        layers += [Layer(f"{block}.{number}", *shape) for number, shape in enumerate(shapes)]
    return SearchSpace(tuple(layers), PAPER_SIZES, 128, **options)


def test_layers_of_a_model():
    space = SearchSpace.of(random_dit(), (4, 8, 16), 8)
    assert [layer.name for layer in space.layers[:4]] == [
        f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert [layer.macs for layer in space.layers[:4]] == [48 * 144, 48 * 48, 48 * 192, 48 * 192]
    assert space.genome(space.groups((4, 8, 16, 4, 8, 16, 4, 8))) == (4, 8, 16, 4, 8, 16, 4, 8)


def test_units_of_dit_xl_are_those_of_the_specification():
    space = dit_xl()
    assert space.limit == 28 * 12 * 9
    assert [row[::-1] for row in space.costs[:2]] == [(12, 18, 27, 54, 108), (4, 6, 9, 18, 36)]


def test_bitops_and_harmonic_mean():
    space = dit_xl()
    total = sum(layer.macs for layer in space.layers)
    assert space.bitops(space.uniform(64)) == pytest.approx(total * (4 * 8 + RESCALE_COST / 64))
    assert space.harmonic_mean(space.uniform(64)) == pytest.approx(64)
    assert space.start == space.uniform(128) and space.within(space.start)
    assert not space.within((64, *space.start[1:]))
    assert space.within((64, 192, 192, 192, *space.start[4:])) == (
        3 * 18 + 6 + 4 * 6 + 4 * 6 <= 12 * 9  # costs of that block in D²/1152, doubled
    )


@given(st.data())
def test_within_is_the_inequality_of_bitops(data):
    space = SearchSpace(tuple(Layer(str(n), 36, n + 1) for n in range(4)), (4, 6, 9, 12, 36), 9)
    genome = tuple(data.draw(st.sampled_from(space.sizes)) for _ in space.layers)
    used = sum(Fraction(layer.macs, size) for layer, size in zip(space.layers, genome, strict=True))
    assert space.within(genome) == (used <= sum(Fraction(layer.macs, 9) for layer in space.layers))


def test_mean_group_is_the_released_rule():
    space = dit_xl(constraint="mean_group")
    genome = (32, 288, 64) + (128,) * 109
    assert space.within(genome) and sum(genome) / 112 >= 128
    assert not dit_xl().within(genome)
    assert space.odds == (1,) * 5


def test_random_genomes_keep_the_budget_often():
    space, rng = dit_xl(), random.Random(0)
    kept = sum(space.within(space.random(rng)) for _ in range(200))
    assert 50 < kept < 150


@pytest.mark.parametrize("reference", [32, 288])
def test_extreme_budgets_can_be_drawn(reference):
    space = SearchSpace(dit_xl().layers, PAPER_SIZES, reference)
    assert space.within(space.random(random.Random(0)))


def test_reference_that_is_no_size_starts_with_the_next_larger():
    space = SearchSpace((Layer("a", 48, 8),), (4, 12, 24), 8)
    assert space.start == (12,) and space.within(space.start)


def test_refusals_name_the_legal_choices():
    layers = (Layer("a", 48, 8), Layer("b", 36, 8))
    with pytest.raises(ConfigError, match=r"\[8\] do not divide .*legal: \[1, 2, 3, 4, 6, 12\]"):
        SearchSpace(layers, (4, 8), 4)
    with pytest.raises(ConfigError, match=r"cannot be met with sizes \[2, 4\].*legal references: \[1, 2, 3, 4\]"):
        SearchSpace(layers, (2, 4), 6)
    with pytest.raises(ConfigError, match="allowed are bitops, mean_group"):
        SearchSpace(layers, (2, 4), 4, constraint="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1 of each"):
        SearchSpace(layers, (), 4)
    space = SearchSpace(layers, (2, 4), 4)
    with pytest.raises(ConfigError, match=r"each one of \[2, 4\]"):
        space.within((3, 4))
    with pytest.raises(ConfigError, match="allowed are 2 sizes"):
        space.within((4,))


TIMES = {4: 9.0, 6: 5.5, 9: 4.0, 12: 4.25, 36: 3.5}
"""Seconds by group size of a layer with one output; 12 is slower than 9."""


def timed(reference: int = 9, sizes: tuple[int, ...] = (4, 6, 9, 12, 36)) -> SearchSpace:
    layers = tuple(Layer(str(n), 36, n + 1) for n in range(4))
    seconds = {(36, n + 1, size): (n + 1) * TIMES[size] * 1e-6 for n in range(4) for size in TIMES}
    model = LatencyModel("scalar", 256, 4, 8, seconds, "sha")
    return SearchSpace(layers, sizes, reference, constraint="latency", latency=model)


@given(st.data())
def test_within_is_the_inequality_of_measured_times(data):
    space = timed()
    genome = tuple(data.draw(st.sampled_from(space.sizes)) for _ in space.layers)
    used = sum((n + 1) * TIMES[size] for n, size in enumerate(genome))
    assert space.budget(genome) == pytest.approx(used * 1e-6) and space.budget_limit == pytest.approx(40e-6)
    assert space.within(genome) == (used <= 40), "these times are whole units"
    assert space.start == space.uniform(9) and space.within(space.start)


def test_random_genomes_keep_a_budget_of_time_about_every_second_time():
    space, rng = timed(), random.Random(0)
    assert 0.2 < sum(space.within(space.random(rng)) for _ in range(400)) / 400 < 0.9


def test_knapsack_under_a_budget_of_time_is_the_best_of_all_genomes():
    space = timed()
    scores = np.random.default_rng(0).random((4, 5)) + 1 / np.array(space.sizes)[::-1] ** 0.5
    found = allocate(space, scores)
    every = (genome for genome in product(space.sizes, repeat=4) if space.within(genome))
    total = {genome: sum(scores[n, space.sizes.index(size)] for n, size in enumerate(genome)) for genome in every}
    assert space.within(found) and total[found] == pytest.approx(min(total.values()))


def test_times_belong_to_the_identity_and_must_be_complete():
    assert timed().identity()["latency_sha256"] == "sha" and "latency_sha256" not in dit_xl().identity()
    with pytest.raises(ConfigError, match="reference 9 is not one of the sizes"):
        timed(sizes=(4, 12, 36))
    with pytest.raises(ConfigError, match=r"no latency of a layer 36→1 in groups of 18: measured are groups \[4, 6"):
        _ = timed(sizes=(9, 18)).costs
    for options in ({"constraint": "latency"}, {"latency": timed().latency}):
        with pytest.raises(ConfigError, match="only constraint latency has one, and needs one"):
            dit_xl(**options)
