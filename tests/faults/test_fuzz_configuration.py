"""Damaged profiles, overlays and records: each ends in a value or in one line, and nothing of another type is taken.

`pytest -m slow tests/faults/test_fuzz_configuration.py`; hypothesis draws the examples, without a database, from a
fixed seed.
"""

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import QditError
from qdit.core.metrics_record import MetricsRecord, read_record
from qdit.workflow.profile import load_profile, validate
from tests.core.test_metrics_record import content
from tests.faults.test_fuzz import JSON, fuzzed

MINI = load_profile("mini")
WRONG = st.sampled_from(["16", "ten", "", "../x", "/etc/x", "a{b}", -5, 0, 1.5, 1e30, True, None, [], {}, [[]], "w0a8"])
VALUES = WRONG | JSON


def leaves(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Paths of all values that are no mapping and no list."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield path
        return
    for key, child in children:
        yield from leaves(child, *path, key)


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path."""
    changed = copy.deepcopy(tree)
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return changed


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def accepts(check: Any, *arguments: Any) -> bool:
    """Whether a check passes; what it raises must be a QditError of one line."""
    try:
        check(*arguments)
    except QditError as problem:
        assert "\n" not in str(problem) and len(str(problem)) < 4000
        return False
    return True


def is_of_the_type_of(value: Any, other: Any) -> bool:
    """Whether a value may stand where another one stood: the same type, or a whole number for a fraction."""
    return type(value) is type(other) or (type(other) is float and type(value) is int)


@fuzzed(2000)
@given(st.sampled_from(list(leaves(MINI))), VALUES)
def test_a_changed_value_of_a_profile_is_refused_or_of_its_type(path: tuple[Any, ...], value: Any) -> None:
    if accepts(validate, replaced(MINI, path, value)):
        before = at(MINI, path)
        options = "options" in path  # an option may be null, or a name where a number stood
        assert options or is_of_the_type_of(value, before) or value in (None, {}), (path, before, value)


@fuzzed(500)
@given(st.dictionaries(st.sampled_from([*MINI, "metods", "x"]), VALUES, min_size=1, max_size=2))
def test_an_invented_overlay_is_one_line_or_a_profile(overlay: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "overlay.yaml")
        path.write_text(yaml.safe_dump(overlay, allow_unicode=True), encoding="utf-8")
        accepts(load_profile, "mini", path)


@fuzzed(100)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_as_an_overlay(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "overlay.yaml")
        path.write_bytes(data)
        accepts(load_profile, "mini", path)


@fuzzed(2000)
@given(st.sampled_from(list(leaves(content()))), JSON | WRONG)
def test_a_changed_value_of_a_record_is_refused_or_of_its_type(path: tuple[Any, ...], value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "metrics.json")
        file.write_text(json.dumps(replaced(content(), path, value)), encoding="utf-8")
        if accepts(read_record, file) and path[0] in ("metrics", "intervals", "size"):
            kept = MetricsRecord.from_json(json.loads(file.read_text(encoding="utf-8")))
            assert all(number is None or isinstance(number, float | int) for number in kept.metrics.values())
            assert not any(isinstance(number, bool) for number in kept.metrics.values())


@fuzzed(500)
@given(JSON)
def test_an_invented_record_is_one_line(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "metrics.json")
        file.write_text(json.dumps(value), encoding="utf-8")
        accepts(read_record, file)
