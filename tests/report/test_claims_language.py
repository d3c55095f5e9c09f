"""The language of claims: three-valued truths, intervals, and the refusal of everything else."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from qdit.core.errors import ConfigError
from qdit.report.claims.language import Evaluation, Key, parse
from qdit.report.data.values import (
    SATURATED,
    Count,
    Evidence,
    Quantity,
    Truth,
    Unknown,
    Value,
    combine,
    compare,
    every,
    some,
)

SETS: Mapping[str, list[Key]] = {"both": ["a", "b"], "blanks": ["a", "?"]}
CELLS = {"a": 1.0, "b": 2.0, "c": 3.0}


class Cells:
    """Three known cells; any other is blank."""

    def cell(self, table: str, metric: str, keys: tuple[Key, ...]) -> Value:
        (key,) = keys
        return Quantity(CELLS[str(key)]) if key in CELLS else Unknown(f"blank {key}")


def truth(text: str) -> bool | None:
    return Evaluation(Cells(), "table5", SETS).truth(parse(text, table="table5", sets=SETS), {}).value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fid('a') < fid('b')", True),
        ("fid('a') < fid('b') < fid('c')", True),
        ("fid('a') < fid('c') < fid('b')", False),
        ("not fid('a') >= 1", False),
        ("fid('a') + fid('b') * 2 - 1 == 4", True),
        ("-fid('a') / 2 == -0.5", True),
        ("abs(fid('a') - fid('c')) == 2", True),
        ("round(fid('a') / fid('c'), 2) == 0.33", True),
        ("min(fid(k) for k in both) == 1 and max(fid('a'), fid('c')) == 3", True),
        ("all(fid(k) < fid('c') for k in both)", True),
        ("any(fid(k) > fid(m) for k in both for m in both)", True),
        ("count(fid(k) > 1 for k in both) == 1", True),
        ("fid('?') < 1", None),
        ("fid('?') < 1 and fid('a') > 1", False),
        ("fid('?') < 1 or fid('a') == 1", True),
        ("not fid('?') < 1", None),
        ("all(fid(k) < 9 for k in blanks)", None),
        ("all(fid(k) < 0 for k in blanks)", False),
        ("any(fid(k) < 9 for k in blanks)", True),
        ("min(fid(k) for k in blanks) < 9", None),
        ("count(fid(k) > 0 for k in blanks) >= 1", True),
        ("count(fid(k) > 0 for k in blanks) == 2", None),
        ("count(fid(k) > 0 for k in blanks) == 3", False),
        ("fid('a') / (fid('b') - 2) > 1", None),
        ("0.1 + 0.2 == 0.3", True),
    ],
)
def test_values(text: str, expected: bool | None) -> None:
    assert truth(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        *("fid('a')", "1", "'a' < 'b'", "fid", "True", "fid('a') < True", "fid('a') if 1 < 2 else 2", "[1] < 2"),
        *(
            "fid('a').real < 1",
            "__import__('os') < 1",
            "fid('a', 'b') < 1",
            "fid() < 1",
            "fid(x) < 1",
            "fid('a') ** 2 < 1",
        ),
        *("fid(*both) < 1", "fid(k='a') < 1", "fid(('a')) is 1", "fid('a') in both", "(lambda: 1)() < 1", "f'{1}' < 1"),
        *("min(fid(k) for k in nothing) < 1", "min(fid(k) for k in both if k) < 1", "all([fid('a') < 1])", "min() < 1"),
        *(
            "round(fid('a')) < 1",
            "round(fid('a'), fid('b')) < 1",
            "all(k for k in both)",
            "(x := 1) < 2",
            "fid('a') < ",
            "",
        ),
        *("fid('a') & 1 < 2", "fid(both) < 1", "all(fid(k) < 1 for k, m in both)", "exec('1') < 1", "~fid('a') < 1"),
        "(" * 500 + "1" + ")" * 500,
    ],
)
def test_anything_else_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, table="table5", sets=SETS)
    assert "\n" not in str(caught.value) and "expression" in str(caught.value)


def test_a_refusal_says_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fd_fp'"):
        parse("fdfp('a') < 1", table="table5", sets=SETS)
    with pytest.raises(ConfigError, match="did you mean 'both'"):
        parse("all(fid(k) < 1 for k in boht)", table="table5", sets=SETS)
    with pytest.raises(ConfigError, match="method, bits, setting in table2"):
        parse("fid('a') < 1", table="table2", sets=SETS)


def test_connectives_are_kleenes() -> None:
    order = {False: 0, None: 1, True: 2}
    for values in itertools.product(order, repeat=3):
        truths = [Truth(value, (Evidence(str(value), value),)) for value in values]
        assert order[every(truths).value] == min(order[value] for value in values)
        assert order[some(truths).value] == max(order[value] for value in values)


def sampled(value: float, spread: np.ndarray, pairing: str = "one") -> Quantity:
    return Quantity(value, value + spread - spread.mean(), pairing, measured=True)


NOISE = np.random.default_rng(0).normal(size=400)
OTHER = np.random.default_rng(1).normal(size=400)


def test_paired_noise_cancels_and_other_noise_does_not() -> None:
    a, b = sampled(1.0, NOISE), sampled(1.1, NOISE + 0.01 * OTHER)
    assert compare("<", a, b, "").value is True and compare(">", a, b, "").value is False
    assert compare("<", a, sampled(1.1, OTHER), "").value is None
    (piece,) = compare("<", a, sampled(1.1, OTHER), "").evidence
    assert piece.interval is not None and piece.interval[0] < 0 < piece.interval[1]


def test_quantities_of_other_drawings_have_no_interval_together() -> None:
    gap = combine(lambda x, y: x - y, sampled(1.0, NOISE), sampled(2.0, NOISE, "another"))
    assert isinstance(gap, Quantity) and gap.samples is None and gap.measured
    (piece,) = compare("<", sampled(1.0, NOISE), sampled(2.0, NOISE, "another"), "").evidence
    assert piece.outcome is True and piece.no_interval


def test_arithmetic_keeps_the_samples() -> None:
    a, b = sampled(1.0, NOISE), sampled(3.0, OTHER)
    found = combine(min, a, b, Quantity(2.0))
    assert isinstance(found, Quantity) and found.samples is not None and found.value == 1.0
    assert np.array_equal(found.samples, np.minimum(np.minimum(a.samples, b.samples), 2.0))  # type: ignore[arg-type]


def test_a_measured_number_equals_what_its_interval_includes() -> None:
    a = sampled(5.3, 0.1 * NOISE)
    assert compare("==", a, Quantity(5.35), "").value is True
    assert compare("==", a, Quantity(6.0), "").value is False
    assert compare("!=", a, Quantity(6.0), "").value is True


def test_nothing_differs_from_itself() -> None:
    equal = sampled(1.0, NOISE)
    assert compare("<=", equal, equal, "").value is True and compare("<", equal, equal, "").value is False


def test_a_number_that_is_the_same_in_every_image_cannot_tell_which_is_larger() -> None:
    """A score of 1 in every clip of both rows is saturated: the clips would have to be worse to tell the rows apart."""
    full = Quantity(1.0, np.ones(400), "one", measured=True)
    for symbol in ("<", ">"):
        truth_value = compare(symbol, full, full, "")
        assert (truth_value.value, truth_value.p, truth_value.evidence[0].reason) == (None, 1.0, SATURATED)
    assert compare("<=", full, full, "").value is True and compare("==", full, full, "").value is True
    assert compare(">", full, Quantity(0.9, np.full(400, 0.9), "one", measured=True), "").value is True
    assert compare(">", full, Quantity(1.0), "").value is False, "a number that the claim names is exact"


def test_a_measured_number_is_not_rounded_before_it_is_compared() -> None:
    class Sampled:
        def cell(self, table: str, metric: str, keys: tuple[Key, ...]) -> Value:
            return sampled(1.004, 0.001 * NOISE)

    found = Evaluation(Sampled(), "table5", SETS).truth(
        parse("round(fid('a'), 2) == 1.0", table="table5", sets=SETS), {}
    )
    assert found.value is False


def test_counts_compare_with_counts() -> None:
    assert compare(">", Count(3, 4), Count(1, 2), "").value is True
    assert compare(">", Count(2, 4), Count(1, 2, ("blank",)), "").value is None
