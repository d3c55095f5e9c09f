"""The compiled library is built when it can be, refused when it is wrong, and never needed."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from qdit.errors import ConfigError
from qdit.kernels import dispatch, library, reference
from qdit.kernels.library import BuildError
from qdit.kernels.packing import pack_weight
from tests.kernels.cases import weight_of

TINY = 'extern "C" int qdit_version() { return 99; }\n'


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is loaded yet, and nothing that the test loads stays."""
    monkeypatch.delenv(library.FORCE, raising=False)
    for memory in (library._library, library.select):
        memory.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for memory in (library._library, library.select):
        memory.cache_clear()


@pytest.fixture
def tiny(tmp_path):
    """Sources that compile at once."""
    if library.find_compiler() is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "tiny.cpp").write_text(TINY)
    return tmp_path / "csrc"


def assert_torch_computes():
    assert library.backend_name() == "torch" and library.available() == ("torch",)
    x, weight = torch.randn(3, 24), pack_weight(*weight_of(4, 5, 24, 4, 0), bits=4)
    assert torch.equal(dispatch.grouped_linear(x, weight), reference.grouped_linear(x, weight))
    assert torch.equal(dispatch.fake_quantize_groups(x, 4, 8), reference.fake_quantize_groups(x, 4, 8))


def test_without_a_compiler_torch_computes_and_one_line_says_so(fresh, caplog):
    fresh.setattr(library, "find_compiler", lambda: None)
    with caplog.at_level(logging.WARNING):
        assert_torch_computes()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "plain torch" in line and "no C++ compiler" in line


def test_compilers_are_looked_for_in_order(fresh):
    there = {"g++": "/usr/bin/g++", "clang++": "/usr/bin/clang++"}
    fresh.setattr(library.shutil, "which", there.get)
    assert library.find_compiler() == ["/usr/bin/g++"]
    there.clear()
    fresh.setattr(library.importlib.util, "find_spec", lambda name: name == "ziglang" or None)
    assert library.find_compiler() == [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]
    fresh.setattr(library.importlib.util, "find_spec", lambda name: None)
    assert library.find_compiler() is None


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("generic.h", "y[n] = y[n] + bias[n]", "y[n] = y[n] - bias[n]"),
        ("driver.cpp", "zero | zero << 23", "zero"),
    ],
)
def test_a_library_that_computes_something_else_is_refused(fresh, tmp_path, caplog, file, right, wrong):
    if library.find_compiler() is None:
        pytest.skip("no C++ compiler")
    sources = tmp_path / "csrc"
    sources.mkdir()
    for source in library.SOURCES.iterdir():
        text = source.read_text()
        if source.name == file:
            assert right in text
            text = text.replace(right, wrong)
        (sources / source.name).write_text(text)
    fresh.setattr(library, "SOURCES", sources)
    fresh.setattr(library, "FLAGS", ("-O0", *library.FLAGS[1:]))
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert_torch_computes()
    assert "wrong numbers" in caplog.text


def test_a_library_of_another_version_or_kind_is_refused(tiny, tmp_path):
    with pytest.raises(BuildError, match="cannot be opened"):
        library.load(tiny, tmp_path)  # qdit_variants is missing
    (tiny / "tiny.cpp").write_text(TINY + 'extern "C" int qdit_variants() { return 1; }\n')
    with pytest.raises(BuildError):
        library.load(tiny, tmp_path)
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(BuildError, match="cannot be opened"):
        library.open_library(text)


def test_what_is_built_is_used_again_unless_it_is_damaged(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "FLAGS", ("-shared", "-fPIC"))
    path = library.build(tiny, tmp_path / "cache")
    whole, before = path.read_bytes(), path.stat().st_mtime_ns
    assert library.build(tiny, tmp_path / "cache") == path and path.stat().st_mtime_ns == before
    path.unlink()
    path.write_bytes(whole[:100])
    assert library.build(tiny, tmp_path / "cache").read_bytes()[:4] == whole[:4] and path.stat().st_size > 100
    (tiny / "tiny.cpp").write_text(TINY + "// another\n")
    assert library.build(tiny, tmp_path / "cache") != path
    assert {file.suffix for file in (tmp_path / "cache").iterdir()} == {".so", ".sha256"}


def test_sources_that_do_not_compile_are_an_error_of_one_line(tiny, tmp_path):
    (tiny / "tiny.cpp").write_text("int broken(")
    with pytest.raises(BuildError, match="failed: .*error") as caught:
        library.build(tiny, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot be built"):
        library.build(tiny, tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ["avx512-vnni", "avx2", "scalar", "torch"])
def test_a_backend_can_be_forced(monkeypatch, name):
    monkeypatch.setenv(library.FORCE, name)
    if name in library.available():
        assert library.backend_name() == name
    else:
        with pytest.raises(ConfigError, match="not available"):
            library.backend_name()


def test_forcing_what_does_not_exist_is_an_error(fresh):
    with pytest.raises(ConfigError, match="QDIT_KERNELS=fast: allowed are avx512-vnni, avx2, scalar and torch"):
        library.select("fast")
    fresh.setattr(library, "find_compiler", lambda: None)
    with pytest.raises(ConfigError, match="QDIT_KERNELS=avx2 is not available: no C"):
        library.select("avx2")


def test_forcing_what_this_processor_has_not_is_an_error(fresh):
    if library.available() == ("torch",):
        pytest.skip("no compiled library")
    fresh.setattr(library, "_runs", lambda loaded, name: name == "scalar")
    with pytest.raises(ConfigError, match="not available on this processor: here run scalar, torch"):
        library.select("avx2")


def test_importing_builds_and_loads_nothing(tmp_path, repository):
    code = "import sys, qdit.kernels.dispatch; assert 'triton' not in sys.modules"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=repository, env=environment, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
