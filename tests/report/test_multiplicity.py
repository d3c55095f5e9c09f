"""p-values of intervals, the two corrections against simulations, and claims among many."""

import math

import numpy as np
import pytest

from qdit.core.intervals import Resamples, interval
from qdit.report.claims.claims import HOLDS, OPEN, Verdict, among_many
from qdit.report.data.multiplicity import Separation
from qdit.report.data.p_values import benjamini_hochberg, holm, p_value, partial_conjunction
from qdit.report.data.values import Quantity, Truth, compare, count, every, some


def test_p_is_below_the_level_exactly_if_the_interval_excludes_zero() -> None:
    assert p_value(1.0, (0.0, 3.0)) == pytest.approx(0.05) and p_value(-1.0, (-3.0, 0.0)) == pytest.approx(0.05)
    assert p_value(1.0, (0.001, 5.0)) < 0.05 < p_value(1.0, (-0.001, 1.5))
    assert p_value(2.0, (2.0, 2.0)) == 0 and p_value(0.0, (0.0, 0.0)) == 1 and p_value(0.0, (-1.0, 1.0)) == 1


def test_p_is_that_of_a_normal_distribution() -> None:
    for z in (0.5, 1.0, 2.5, 4.0):
        gap = z  # a deviation of 1: the interval reaches 1.96 to both sides
        expected = math.erfc(z / math.sqrt(2))
        assert p_value(gap, (gap - 1.959964, gap + 1.959964)) == pytest.approx(expected, rel=1e-5)


def test_corrections_are_those_of_their_papers() -> None:
    p = [0.001, 0.013, 0.02, 0.04]
    assert holm(p) == [True, True, True, True] and holm([0.02, 0.013, 0.001]) == [True, True, True]
    assert holm([0.04, 0.026, 0.001]) == [False, False, True]
    assert benjamini_hochberg([0.026, 0.001, 0.04]) == [True, True, True]
    assert benjamini_hochberg([0.03, 0.03, 0.9]) == [True, True, False]
    assert benjamini_hochberg([0.04, 0.9]) == [False, False] and holm([]) == benjamini_hochberg([]) == []
    assert partial_conjunction([0.1, 0.01, 0.2], 1) == pytest.approx(0.03)
    assert partial_conjunction([0.1, 0.01, 0.2], 3) == pytest.approx(0.2)


def test_errors_stay_below_the_level_in_simulated_families() -> None:
    """Half of 20 differences are real: Holm errs in under 5 % of families, BH in under 5 % of its decisions."""
    draw, families, wrong, decisions, false = np.random.default_rng(0), 400, 0, 0, 0
    for _ in range(families):
        z = draw.normal(size=20) + np.repeat([0.0, 3.0], 10)
        p = [p_value(value, (value - 1.959964, value + 1.959964)) for value in z]
        wrong += any(holm(p)[:10])
        found = benjamini_hochberg(p)
        decisions, false = decisions + sum(found), false + sum(found[:10])
    assert wrong / families < 0.06 and false / decisions < 0.05
    assert decisions > families * 7


def row_of(value: float, *, seed: int = 0, spread: float = 1.0) -> dict[str, object]:
    values = value + spread * np.random.default_rng(seed).normal(size=200)
    return {"fd_fp": value, "resamples": Resamples({"fd_fp": values}, "p")}


def test_rows_are_apart_with_control_over_all_pairs() -> None:
    rows = [row_of(0, seed=1), row_of(3.1, seed=2), row_of(60, seed=3)]
    alone = Separation(rows[:2], "fd_fp")
    assert alone.apart(rows[0], rows[1]) and (alone.comparisons, alone.alone, alone.controlled) == (1, 1, 1)
    many = [*rows[:2], *(row_of(3.1 + 0.01 * n, seed=10 + n) for n in range(12))]
    crowd = Separation(many, "fd_fp")
    assert not crowd.apart(many[0], many[1]) and crowd.controlled < crowd.alone and crowd.comparisons == 91
    assert Separation(rows, "fd_fp").apart(rows[2], rows[0])


def test_rows_without_intervals_are_apart_by_their_numbers_and_missing_numbers_never() -> None:
    bare: list[dict[str, object]] = [{"fd_fp": 1.0}, {"fd_fp": 2.0}, {"fd_fp": 2.0}, {"fd_fp": None}]
    separation = Separation(bare, "fd_fp")
    assert separation.apart(bare[0], bare[1]) and not separation.apart(bare[1], bare[2])
    assert not separation.apart(bare[0], bare[3]) and separation.comparisons == 0


def measured(value: float, deviation: float = 1.0) -> Quantity:
    samples = value + deviation * np.linspace(-2.0, 2.0, 201)
    return Quantity(value, samples, "p", True)


def truth(gap: float) -> Truth:
    """Truth of `gap > 0` with intervals of about ±1.9."""
    return compare(">", measured(gap), Quantity(0.0), "gap > 0")


def test_p_of_all_is_the_largest_and_of_any_n_times_the_smallest() -> None:
    gaps = [truth(gap) for gap in (2.5, 3.0, 5.0)]
    limits = [interval(measured(gap).samples) for gap in (2.5, 3.0, 5.0)]  # type: ignore[arg-type]
    ps = [p_value(gap, of) for gap, of in zip((2.5, 3.0, 5.0), limits, strict=True)]
    assert [of.p for of in gaps] == pytest.approx(ps)
    assert every(gaps).p == pytest.approx(max(ps)) and some(gaps).p == pytest.approx(3 * min(ps))
    assert every([*gaps, truth(-4.0)]).value is False
    assert every([*gaps, truth(-4.0)]).p == pytest.approx(min(1.0, 4 * truth(-4.0).p))  # type: ignore[operator]
    assert every([*gaps, truth(0.5)]).p == 1.0 and every([*gaps, truth(0.5)]).value is None


def test_p_of_a_count_is_that_of_a_partial_conjunction() -> None:
    ps = sorted(truth(gap).p for gap in (2.5, 3.0, 5.0))  # type: ignore[type-var]
    counted = count([truth(gap) for gap in (2.5, 3.0, 5.0, 0.5)])
    one, two = (compare(">=", counted, Quantity(float(n)), "count") for n in (1, 2))
    assert one.value and one.p == pytest.approx(4 * ps[0])  # type: ignore[operator]
    assert two.value and two.p == pytest.approx(3 * ps[1])  # type: ignore[operator]


def test_printed_numbers_have_no_p() -> None:
    assert compare(">", Quantity(2.0), Quantity(1.0), "2 > 1").p is None
    assert every([compare(">", Quantity(2.0), Quantity(1.0), "2 > 1")]).p is None


def test_a_verdict_that_does_not_stand_among_many_cannot_be_told() -> None:
    verdicts = {f"c{n}": Verdict(OPEN, p=1.0) for n in range(20)} | {"weak": Verdict(HOLDS, p=0.03)}
    verdicts |= {"sure": Verdict(HOLDS, p=1e-6), "printed": Verdict(HOLDS)}
    found = among_many(verdicts)
    assert found["weak"].word == OPEN and found["weak"].alone == HOLDS and "22 claims" in found["weak"].why
    assert found["sure"].word == found["printed"].word == HOLDS and not found["sure"].alone
    weak = {"weak": Verdict(HOLDS, p=0.03)}
    assert among_many(weak)["weak"].word == HOLDS
    assert among_many(weak, 2)["weak"].word == OPEN, "a run with fewer rows is judged as strictly"
