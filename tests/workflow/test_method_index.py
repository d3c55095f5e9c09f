"""What is read of methods without importing them is what their classes say."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qdit.core.errors import ConfigError
from qdit.core.method_modules import MethodModule
from qdit.methods.quantize import options_of
from qdit.methods.registry import load_registry, registry
from qdit.sampling.calibration import KINDS
from qdit.workflow.method_index import TYPES, facts_in, method_facts, method_index, method_sources, planned_kinds
from qdit.workflow.method_pages import method_text, methods_text

METHODS = sorted(registry())
CLASS = """from qdit.methods.method import Method

SIZE = 4


class Options:
    size: int = SIZE
    rate: float = 1 / SIZE


class Mine(Method):
    name = "mine"
    Options = Options
    {}

    def quantize(self, model, **_):
        return None
"""


def test_the_same_methods_and_nothing_is_broken() -> None:
    assert list(method_sources()) == list(registry())
    assert method_index().broken == load_registry().broken == ()


@pytest.mark.parametrize("name", METHODS)
def test_facts_are_those_of_the_class(name: str) -> None:
    method, facts = registry()[name], method_facts(name)
    for attribute in TYPES.keys() - {"printed"}:
        assert getattr(facts, attribute) == getattr(method, attribute), attribute
    assert facts.printed == (method.printed or name)
    assert facts.module == type(method).__module__
    assert facts.options is not None
    defaults = dataclasses.asdict(method.Options())
    assert {key: option.default for key, option in facts.options.items() if option.known} == defaults
    assert set(facts.calibration) <= set(KINDS) and re.fullmatch("#[0-9a-fA-F]{6}", facts.color or "")
    if facts.learns_rounding:
        assert {"iterations", "batch"} <= facts.options.keys()


@pytest.mark.parametrize("name", METHODS)
def test_planned_kinds_are_those_that_the_step_asks_for(name: str) -> None:
    method = registry()[name]
    values = {option: {value} for _, option, value in method.calibration_unused}
    values = {option: [*known, getattr(method.Options(), option)] for option, known in values.items()}
    for chosen in itertools.product(*values.values()):
        options = dict(zip(values, chosen, strict=True))
        assert planned_kinds(name, options) == method.calibration_for(options_of(method, options))


def test_reading_imports_neither_torch_nor_a_method() -> None:
    script = (
        "import sys; from qdit.workflow.method_pages import methods_text; methods_text();"
        "print([name for name in ('torch', 'baselines', 'qdit.methods.q_dit') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def read(path: Path, line: str = "") -> object:
    path.write_text(CLASS.format(line), encoding="utf-8")
    (facts,) = facts_in(MethodModule("baselines.mine", path))
    return facts


def test_what_a_class_does_not_say_comes_from_the_contract(tmp_path: Path) -> None:
    facts = read(tmp_path / "mine.py")
    assert (facts.printed, facts.calibration, facts.color, facts.line, facts.minutes) == ("mine", (), None, "-", 240)
    assert facts.options["size"].default == 4 and facts.options["size"].known
    assert facts.options["rate"].default == "1 / SIZE" and not facts.options["rate"].known


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("calibration = tuple(['ndtc'])", "line 14: calibration = tuple(['ndtc']): expected a literal"),
        ("calibration = 'ndtc'", "line 14: calibration is 'ndtc', expected a tuple"),
        ("learns_rounding = 1", "line 14: learns_rounding is 1, expected True or False"),
        ("minutes = True", "line 14: minutes is True, expected a whole number"),
        ("printed = 3", "line 14: printed is 3, expected a text or None"),
        ("color = None if SIZE else 'red'", "line 14: color = None if SIZE else 'red': expected a literal"),
        ("def oops(:", "line 14: invalid syntax; correct the file"),
    ],
)
def test_what_is_no_literal_is_one_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "mine.py", line)
    assert words in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_method_without_a_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CLASS.format("").replace('name = "mine"', "pass"), encoding="utf-8")
    with pytest.raises(ConfigError, match="line 11: class Mine has no name; add it as a literal"):
        facts_in(MethodModule("baselines.mine", tmp_path / "mine.py"))


def test_the_readme_names_every_method_with_its_calibration_data(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| \[[^]]+\]\(([^)]+\.py)\) .* \| ([^|]+) \|$", text, flags=re.MULTILINE)
    listed = {name: (file, tuple(re.findall(r"`([^`]+)`", kinds))) for name, file, kinds in rows}
    assert listed == {
        name: (facts.path.relative_to(repository).as_posix(), facts.calibration)
        for name, facts in method_sources().items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_page_shows_every_option_with_its_default(name: str) -> None:
    text, facts = method_text(name), method_facts(name)
    for option, default in dataclasses.asdict(registry()[name].Options()).items():
        assert re.search(rf"^  {option} .*  {re.escape(json.dumps(default))}$", text, flags=re.MULTILINE), option
    assert facts.citation in text and all(kind in text for kind in facts.calibration)
    assert re.search(rf"^{re.escape(name)} +{re.escape(facts.printed)} ", methods_text(), flags=re.MULTILINE)


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"method 'q-dti': allowed are .*; did you mean 'q-dit'\?"):
        method_text("q-dti")
