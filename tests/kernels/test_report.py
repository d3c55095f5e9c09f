"""`qdit doctor` and `qdit kernels` say what computes, from which file, and why nothing else does."""

import pytest
from typer.testing import CliRunner

from qdit.cli.kernels import kernels_app
from qdit.core.errors import ConfigError
from qdit.kernels import backend, building, library
from qdit.kernels.backend import forced
from qdit.kernels.report import report
from qdit.workflow import doctor


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A computer without a compiler and without a library."""
    monkeypatch.delenv(backend.FORCE, raising=False)
    forced.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "find_compiler", lambda: None)
    for memory in (library._library, library.select):
        memory.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for memory in (library._library, library.select):
        memory.cache_clear()


def test_every_backend_is_in_use_or_has_a_reason(monkeypatch):
    monkeypatch.delenv(backend.FORCE, raising=False)
    forced.cache_clear()
    said = report()
    assert said["kernels"].startswith(library.backend_name())
    for name in backend.FORCEABLE:
        assert name in said["kernels"] or f"{name}: " in said["kernels not used"]
    assert set(said) <= set(doctor.surroundings())


def test_a_library_is_named_with_its_compiler():
    loaded = library.loaded()
    if isinstance(loaded, str):
        pytest.skip(loaded)
    line = report()["kernel library"]
    assert str(loaded.built.path) in line and loaded.built.compiler in line


def test_without_a_compiler_the_report_says_so(bare):
    said = report()
    assert said["kernels"].startswith("torch on the CPU")
    assert "no C++ compiler" in said["kernel library"] and "scalar: no library" in said["kernels not used"]


def test_what_cannot_be_forced_is_a_line_of_the_report(bare):
    bare.setenv(backend.FORCE, "avx2")
    forced.cache_clear()
    assert "QDIT_KERNELS=avx2 is not available" in report()["kernels"]


def test_building_without_a_compiler_is_an_error_unless_it_is_optional(bare):
    done = CliRunner().invoke(kernels_app, ["build", "--optional"])
    assert done.exit_code == 0 and "plain torch" in done.output
    done = CliRunner().invoke(kernels_app, ["build"])
    assert isinstance(done.exception, ConfigError) and "no C++ compiler" in str(done.exception)


def test_build_names_file_and_variants():
    if building.find_compiler() is None:
        pytest.skip("no C++ compiler")
    done = CliRunner().invoke(kernels_app, ["build"])
    assert done.exit_code == 0 and done.output.rstrip().endswith(", ".join(library.available()[:-1]))
