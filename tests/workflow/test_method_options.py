"""Options as a profile reads them, without importing a method, give the verdicts of the method's own class."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import ConfigError
from qdit.core.options import field_types, parse_options
from qdit.methods.registry import registry
from qdit.search.options import KINDS, Kind, SearchOptions, parse_search_options
from qdit.workflow import method_index, method_options
from qdit.workflow.method_options import check_method_options, options_class

METHODS = sorted(registry())
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.floats()
    | st.sampled_from(["", "16", "all", "tib", "sample", "timestep", "nearest", "false", "dp", "ilp", "kl", "static"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2)


def verdict(check: Any, *arguments: Any) -> str:
    """What a check says, or nothing."""
    try:
        check(*arguments)
    except ConfigError as problem:
        assert "\n" not in str(problem)
        return str(problem)
    return ""


@pytest.mark.parametrize("method", METHODS)
def test_the_class_that_a_profile_reads_is_the_method_s_own(method: str) -> None:
    ours, theirs = options_class(method), registry()[method].Options
    assert ours is not None and ours is not theirs
    assert [(f.name, f.default) for f in dataclasses.fields(ours)] == [
        (f.name, f.default) for f in dataclasses.fields(theirs)
    ]
    assert field_types(ours) == field_types(theirs)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_profile_and_the_method_give_the_same_verdict(method: str, data: st.DataObject) -> None:
    names = [field.name for field in dataclasses.fields(registry()[method].Options)]
    options = data.draw(st.dictionaries(st.sampled_from([*names, "other"]), VALUES, max_size=3))
    where = "methods.x.options"
    by_profile = verdict(lambda: check_method_options(method, options, where=where))
    assert by_profile == verdict(lambda: parse_options(method, registry()[method].Options, options, position=where))
    in_python = verdict(lambda: registry()[method].Options(**options)) if "other" not in options else by_profile
    assert bool(in_python) == bool(by_profile)


SEARCHED = sorted({name for kind in KINDS for name in SearchOptions().of(kind)})


@pytest.mark.parametrize("kind", get_args(Kind))
@settings(max_examples=40)
@given(options=st.dictionaries(st.sampled_from([*SEARCHED, "other"]), VALUES, max_size=3))
def test_no_option_of_a_search_is_taken_that_is_not_of_its_type(kind: Kind, options: dict[str, Any]) -> None:
    message = verdict(lambda: parse_search_options(kind, options))
    known = SearchOptions().of(kind)
    if not message:
        assert options.keys() <= known.keys()
        for name, value in options.items():
            default = known[name]
            wanted = {float: (int, float), tuple: (list, tuple)}.get(type(default), (type(default),))
            assert isinstance(value, wanted) and isinstance(value, bool) == isinstance(default, bool)
            assert not isinstance(value, float) or math.isfinite(value)


def test_no_method_is_imported() -> None:
    program = (
        "import sys; from qdit.workflow.profile import load_profile; load_profile('mini'); load_profile('paper');"
        "print('torch' in sys.modules, [name for name in sys.modules if name.startswith('baselines')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["False", "[]"]


TOY = '''"""A method of somebody else."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge

from .toykinds import LEAST, Kind, within

NOT_NEEDED = torch.nothing_such


@dataclass(frozen=True)
class Base:
    kind: Kind = "a"


@dataclass(frozen=True)
class ToyOptions(Base):
    count: Annotated[int, Ge(LEAST)] = 5

    def __post_init__(self) -> None:
        within(self.count)


class Parent(Method):
    Options = ToyOptions


class Toy(Parent):
    name = "toy"
'''
KINDS_OF_TOY = """from typing import Literal

from qdit.core.errors import ConfigError

Kind = Literal["a", "b"]
LEAST = 4


def within(count):
    if count > 9:
        raise ConfigError(f"count {count}: at most 9")
"""


def pretend(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let the method `toy` be written in that module."""
    toy = dataclasses.replace(method_index.method_sources()["fp"], module=module)
    monkeypatch.setattr(method_options, "method_sources", lambda: {"toy": toy})


def test_options_are_followed_through_modules_classes_and_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toys"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('not to be imported')")
    (folder / "toy.py").write_text(TOY)
    (folder / "toykinds.py").write_text(KINDS_OF_TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    pretend(monkeypatch, "toys.toy")
    toy_options = method_options.options_class.__wrapped__("toy")
    assert toy_options is not None and toy_options().count == 5

    def message(options: dict[str, Any]) -> str:
        return verdict(lambda: parse_options("toy", toy_options, options))

    assert message({"count": 4, "kind": "b"}) == ""
    assert message({"count": 3}) == "toy: option count is 3, expected a whole number of at least 4"
    assert message({"kind": "c"}) == "toy: option kind is 'c'; allowed are a, b"
    assert message({"count": 10}) == "toy: count 10: at most 9"


@pytest.mark.parametrize("text", ["class Broken(", 'class T(Method):\n    name = "toy"\n    Options = make()\n', ""])
def test_options_that_cannot_be_read_are_left_to_the_method(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"toy_{abs(hash(text))}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    pretend(monkeypatch, module)
    assert method_options.options_class.__wrapped__("toy") is None
