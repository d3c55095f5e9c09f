"""Options are checked by the annotations of their class, wherever they come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt, MinLen

from qdit.core.errors import ConfigError
from qdit.core.options import CheckedOptions, Count, GroupSize, Positive, Probability, parse_options


@dataclass(frozen=True)
class Example(CheckedOptions):
    """Every kind of option."""

    mode: Literal["fast", "exact"] = "fast"
    on: bool = True
    count: Count = 3
    rate: Positive = 0.1
    chance: Probability = 0.5
    group_size: GroupSize | None = None
    below: Annotated[float, Ge(-1), Lt(1)] = 0
    rungs: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2)
    widths: Mapping[str, Count] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rungs[0] > self.count:
            raise ConfigError(f"rungs {list(self.rungs)}: the first is at most count, {self.count}")


@dataclass(frozen=True)
class Plain:
    """Without the base class, and with an option that must be given."""

    count: Annotated[int, Ge(1)]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"mode": "exactly"}, "x: option mode is 'exactly'; allowed are fast, exact; did you mean 'exact'?"),
    ({"on": "false"}, "x: option on is 'false', expected true or false"),
    ({"on": 1}, "x: option on is 1, expected true or false"),
    ({"count": True}, "x: option count is True, expected a whole number of at least 1"),
    ({"count": "ten"}, "x: option count is 'ten', expected a whole number of at least 1"),
    ({"count": "16"}, "x: option count is '16', expected a whole number of at least 1; write 16"),
    ({"count": 16.0}, "x: option count is 16.0, expected a whole number of at least 1"),
    ({"count": 0}, "x: option count is 0, expected a whole number of at least 1"),
    ({"rate": 0}, "x: option rate is 0, expected a number above 0"),
    ({"rate": math.nan}, "x: option rate is nan, expected a number above 0"),
    ({"rate": math.inf}, "x: option rate is inf, expected a number above 0"),
    ({"rate": "1e-3"}, "x: option rate is '1e-3', expected a number above 0; write 0.001"),
    ({"rate": True}, "x: option rate is True, expected a number above 0"),
    ({"chance": 1.5}, "x: option chance is 1.5, expected a number of at least 0 and of at most 1"),
    ({"below": 1}, "x: option below is 1, expected a number of at least -1 and below 1"),
    (
        {"group_size": -1},
        "x: option group_size is -1, expected a whole number of at least 1 that divides the layers' input width or",
    ),
    (
        {"rungs": []},
        "x: option rungs is [], expected a list of length at least 1, each value a whole number of",
    ),
    (
        {"rungs": 8},
        "x: option rungs is 8, expected a list of length at least 1, each value a whole number of",
    ),
    (
        {"widths": {"a": 0}},
        "x: option widths is {'a': 0}, expected a mapping, each value a whole number of",
    ),
    ({"note": 1}, "x: option note is 1, expected a text; put it in quotes"),
    (
        {"cuont": 1},
        "x has no option 'cuont'; allowed are mode, on, count, rate, chance, group_size, ",
    ),
    ({"rungs": [4]}, "x: rungs [4]: the first is at most count, 3"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_value_that_is_not_allowed_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options("x", Example, given)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [given for given, _ in BAD if "cuont" not in given], ids=str)
def test_python_meets_the_same_check(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Example(**given)
    with pytest.raises(ConfigError):
        replace(Example(), **given)


def test_values_stay_as_they_are_and_lists_become_tuples() -> None:
    options = parse_options("x", Example, {"rate": 1, "rungs": [2, 3], "group_size": 16, "widths": {"a": 1}})
    assert options == Example(rate=1, rungs=(2, 3), group_size=16, widths={"a": 1})
    assert isinstance(options.rate, int), "1 is not made 1.0: it stands in the record as it was given"
    assert Example(rungs=[2, 3]).rungs == (2, 3)  # type: ignore[arg-type]


def test_place_of_a_profile_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^methods\.a\.options\.count: found 0, expected a whole number"):
        parse_options("x", Example, {"count": 0}, position="methods.a.options")
    with pytest.raises(ConfigError, match=r"^methods\.a\.options: x has no option 'b'"):
        parse_options("x", Example, {"b": 0}, position="methods.a.options")
    with pytest.raises(ConfigError, match=r"^methods\.a\.options: rungs \[9\]: the first"):
        parse_options("x", Example, {"rungs": [9]}, position="methods.a.options")


def test_any_dataclass_is_checked_and_may_ask_for_a_value() -> None:
    assert parse_options("x", Plain, {"count": 2}) == Plain(2)
    with pytest.raises(ConfigError, match="x: option count is 0, expected a whole number of at least 1"):
        parse_options("x", Plain, {"count": 0})
    with pytest.raises(ConfigError, match="x: .*missing.*'count'"):
        parse_options("x", Plain, {})
