"""The dynamic programme and the integer programme: each the other's test, and both against trying everything."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import ConfigError
from qdit.search.knapsack import allocate, solve_dp, solve_milp
from tests.search.test_space import dit_xl
from tests.search.toys import SPACE


@st.composite
def instances(draw, layers=5, sizes=4):
    shape = (draw(st.integers(1, layers)), draw(st.integers(1, sizes)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    costs = generator.integers(0, 12, shape)
    scores = generator.lognormal(0, draw(st.sampled_from([0.1, 1, 4])), shape)
    least, most = costs.min(axis=1).sum(), costs.max(axis=1).sum()
    return scores, costs, int(draw(st.integers(int(least), int(most) + 2)))


def value(scores, columns):
    return scores[np.arange(len(scores)), columns].sum()


@settings(deadline=None, max_examples=60)
@given(instances())
def test_both_are_the_optimum(instance):
    scores, costs, limit = instance
    choices = product(*(range(scores.shape[1]) for _ in scores))
    best = min(value(scores, c) for c in map(list, choices) if costs[np.arange(len(costs)), c].sum() <= limit)
    for solve in (solve_dp, solve_milp):
        columns = solve(scores, costs, limit)
        assert costs[np.arange(len(costs)), columns].sum() <= limit
        assert value(scores, columns) == pytest.approx(best, rel=1e-7)


@settings(deadline=None, max_examples=15)
@given(instances(layers=30, sizes=6))
def test_they_agree(instance):
    assert value(instance[0], solve_dp(*instance)) == pytest.approx(value(instance[0], solve_milp(*instance)), rel=1e-6)


@pytest.mark.parametrize("constraint", ["bitops", "mean_group"])
def test_allocations_of_dit_xl_agree(constraint):
    space = dit_xl(constraint=constraint)
    scores = np.sort(np.random.default_rng(0).lognormal(0, 1, (112, 5)), axis=1)
    first, second = (allocate(space, scores, solver=solver) for solver in ("dp", "milp"))
    assert space.within(first) and space.within(second)
    assert value(scores, space.columns(first)) == pytest.approx(value(scores, space.columns(second)), rel=1e-7)
    assert value(scores, space.columns(first)) <= value(scores, space.columns(space.start))


def test_refusals():
    scores, costs = np.ones((2, 2)), np.array([[3, 4], [5, 6]])
    for solve in (solve_dp, solve_milp):
        with pytest.raises(ConfigError, match="budget of 7 units cannot be met: .* takes 8"):
            solve(scores, costs, 7)
    with pytest.raises(ConfigError, match=r"allowed are finite numbers, \(layers, sizes\) = \(8, 4\)"):
        allocate(SPACE, np.ones((8, 3)))
    with pytest.raises(ConfigError, match="finite"):
        allocate(SPACE, np.full((8, 4), np.nan))
    with pytest.raises(ConfigError, match="allowed are dp, milp"):
        allocate(SPACE, np.ones((8, 4)), solver="greedy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use solver milp"):
        solve_dp(scores, costs * 10**9, 10**10)
