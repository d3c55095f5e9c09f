"""Methods of other packages: found through their entry point, read without importing them, and part of the digest."""

import sys
from pathlib import Path

import pytest
import torch

from qdit.core.digest import Sources, code_digest
from qdit.core.errors import ConfigError
from qdit.methods.quantize import options_of, quantize_model
from qdit.methods.registry import find_method, load_registry, registry
from qdit.methods.sources import STEP
from qdit.workflow.method_index import method_facts, method_index
from tests.methods.plugin import METHOD, PACKAGE, POINT, installed, write_plugin
from tests.small_models import calibration_set, inputs, random_dit

MODULE = f"{PACKAGE}.inner.plain"


@pytest.fixture(autouse=True)
def unloaded():
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_a_method_of_another_package_is_read_without_importing_it(tmp_path: Path, monkeypatch) -> None:
    with installed(write_plugin(tmp_path), monkeypatch):
        facts = method_facts("plain")
        assert not any(name.partition(".")[0] == PACKAGE for name in sys.modules)
    assert facts.module == MODULE and facts.path == tmp_path / PACKAGE / "inner" / "plain.py"
    assert (facts.printed, facts.calibration, facts.learns_rounding) == ("Plain", ("trajectory",), False)
    assert facts.calibration_for({"activation": "dynamic"}) == ()
    assert facts.options is not None and list(facts.options) == ["group_size", "activation", "include_zero"]
    assert (facts.options["group_size"].default, facts.options["group_size"].about) == (
        8,
        "Input channels that share a scale.",
    )


def test_the_registry_loads_it_and_it_quantizes_as_its_class_says(tmp_path: Path, monkeypatch) -> None:
    model, given = random_dit(), {"trajectory": calibration_set("trajectory")}
    with installed(write_plugin(tmp_path), monkeypatch):
        plain = quantize_model(model, "plain", weight_bits=4, activation_bits=8, calibration=given)
        assert type(find_method("plain")).__module__ == MODULE
    expected = quantize_model(
        model, "rtn", weight_bits=4, activation_bits=8, calibration=given, options={"group_size": 8}
    )
    with torch.inference_mode():
        assert torch.equal(plain.model(*inputs()), expected.model(*inputs()))
    assert "plain" not in registry()


def test_its_digest_covers_its_file_and_what_that_imports_of_its_package(tmp_path: Path, monkeypatch) -> None:
    with installed(write_plugin(tmp_path), monkeypatch):
        before, files = code_digest(STEP, MODULE), Sources().files(STEP, MODULE)
        assert method_facts("plain").code == before
        names = {place.as_posix() for place in files}
        assert {f"{PACKAGE}/inner/plain.py", f"{PACKAGE}/helper.py", "baselines/rtn.py"} <= names
        for name in ("inner/plain.py", "helper.py"):
            path = tmp_path / PACKAGE / name
            text = path.read_text(encoding="utf-8")
            path.write_text(f"{text}# edited\n", encoding="utf-8")
            assert code_digest(STEP, MODULE) != before, name
            path.write_text(text, encoding="utf-8")
        assert code_digest(STEP, MODULE) == before
        assert not any(name.startswith(PACKAGE) for name in map(str, Sources().files(STEP, "baselines.rtn")))


def test_a_class_that_a_package_hands_on_is_found_where_it_is_written(tmp_path: Path, monkeypatch) -> None:
    folder = write_plugin(tmp_path, point=f"[qdit.methods]\nplain = {PACKAGE}.inner:Plain\n")
    (folder / PACKAGE / "inner" / "__init__.py").write_text("from .plain import Plain\n", encoding="utf-8")
    with installed(folder, monkeypatch):
        assert method_facts("plain").module == MODULE == type(find_method("plain")).__module__


@pytest.mark.parametrize(
    ("method", "point", "words"),
    [
        (METHOD + "def broken(:\n", POINT, "plain.py line 23: invalid syntax"),
        (METHOD.replace('"plain"', '"rtn"'), POINT, "a method named 'rtn' exists already"),
        (METHOD, POINT.replace(":Plain", ":Pain"), "Pain is not a subclass of Method; correct the entry point"),
        (METHOD, POINT.replace("inner.plain", "inner.plane"), f"module {PACKAGE}.inner.plane: no source file found"),
    ],
)
def test_a_broken_plugin_is_one_line_and_takes_nothing_else_away(
    tmp_path: Path, monkeypatch, method: str, point: str, words: str
) -> None:
    ours = set(registry())
    with installed(write_plugin(tmp_path, method=method, point=point), monkeypatch):
        for broken in (method_index().broken, load_registry().broken):
            assert len(broken) == 1 and words in broken[0].reason and "\n" not in broken[0].reason
        assert set(method_index().methods) == set(registry()) == ours
        assert type(find_method("rtn")).__module__ == "baselines.rtn"


def test_an_import_that_fails_is_named_with_its_line(tmp_path: Path, monkeypatch) -> None:
    method = METHOD.replace("from baselines.rtn", "import no_such_package\nfrom baselines.rtn")
    with installed(write_plugin(tmp_path, method=method), monkeypatch):
        assert "plain" in method_index().methods  # what is read needs no import
        with pytest.raises(ConfigError, match=r"plain\.py line 5: ModuleNotFoundError: No module named 'no_such_p"):
            find_method("plain")
        assert options_of(find_method("rtn"), {}).activation == "static"


def test_an_unknown_kind_of_calibration_data_is_refused(tmp_path: Path, monkeypatch) -> None:
    method = METHOD.replace("    Options =", '    calibration = ("trajectry",)\n    Options =')
    with (
        installed(write_plugin(tmp_path, method=method), monkeypatch),
        pytest.raises(ConfigError, match=r"plain\.py: calibration 'trajectry': allowed are trajectory, ndtc, "),
    ):
        find_method("plain")
