"""Options by hand, of methods and searches: each text ends in options that hold what was given, or in one line.

`pytest -m slow tests/faults/test_fuzz_options.py`; hypothesis draws the examples, without a database, from a fixed
seed.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from qdit.cli.options import parse_json_object
from qdit.core.errors import QditError
from qdit.methods.quantize import options_of
from qdit.methods.registry import registry
from qdit.search.options import Kind, parse_search_options
from tests.faults.test_fuzz import JSON, fuzzed
from tests.faults.test_fuzz_configuration import WRONG

REGISTRY = registry()
METHODS = sorted(REGISTRY)
KINDS = get_args(Kind)
VALUES = WRONG | JSON | st.sampled_from([1, 2, 8, 0.5, 10**20, -1e-9, "none", "static", [1, 2], [True], {"a": 16}])


def names_of(method: str) -> list[str]:
    """The names of a method's options."""
    return [field.name for field in dataclasses.fields(REGISTRY[method].Options) if field.init]


OF_METHODS = st.sampled_from(METHODS).flatmap(
    lambda method: st.tuples(
        st.just(method),
        st.dictionaries(st.sampled_from([*names_of(method), "group", ""]), VALUES, min_size=1, max_size=3),
    )
)
SEARCH_NAMES = [
    "population",
    "parents",
    "iterations",
    "rungs",
    "keep",
    "solver",
    "probes",
    "evaluations",
    "genomes",
    "x",
]


def plain(value: Any) -> Any:
    """A value with lists for tuples and dictionaries for mappings, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal and of one type; a whole number may stand for a fraction."""
    if isinstance(value, list):
        return isinstance(other, list) and len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, dict):
        return isinstance(other, dict) and value.keys() == other.keys() and all(same(value[k], other[k]) for k in value)
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def made(text: str, parse: Callable[[dict[str, Any]], Any]) -> tuple[dict[str, Any], Any] | None:
    """What was given and the options of it; None where they were refused in one line."""
    try:
        values = parse_json_object(text, "--options")
        return values, parse(values)
    except QditError as problem:
        assert "\n" not in str(problem) and len(str(problem)) < 2000
        return None


@fuzzed(600)
@given(OF_METHODS)
def test_options_of_methods(drawn: tuple[str, dict[str, Any]]) -> None:
    method, values = drawn
    outcome = made(json.dumps(values), lambda read: options_of(REGISTRY[method], read))
    for name, value in values.items() if outcome else ():
        assert same(value, plain(getattr(outcome[1], name))), (method, name, value)  # type: ignore[index]


@fuzzed(300)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(SEARCH_NAMES), VALUES, max_size=3))
def test_options_of_searches(kind: Kind, values: dict[str, Any]) -> None:
    outcome = made(json.dumps(values), lambda read: parse_search_options(kind, read))
    if outcome:
        taken = [part for part in vars(outcome[1]).values() if dataclasses.is_dataclass(part)]
        for name, value in values.items():
            assert any(same(value, plain(getattr(part, name, None))) for part in taken), (kind, name, value)


@fuzzed(100)
@given(st.sampled_from(METHODS), st.text(max_size=40) | JSON.map(json.dumps))
def test_any_text_as_options(method: str, text: str) -> None:
    outcome = made(text, lambda read: options_of(REGISTRY[method], read))
    assert outcome is None or isinstance(json.loads(text), dict)
