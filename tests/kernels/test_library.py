"""The compiled library is found or built when it can be, refused when it is wrong, and never needed."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.kernels import backend, building, dispatch, library, reference
from qdit.kernels.backend import forced
from qdit.kernels.building import BuildError
from qdit.kernels.packing import pack_weight
from tests.kernels.cases import weight_of
from tests.preloaded import python

EXPORT = 'extern "C" __attribute__((visibility("default"))) int '
TINY = EXPORT + "qdit_version() { return 99; }\n"


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is loaded yet, and nothing that the test loads stays."""
    monkeypatch.delenv(backend.FORCE, raising=False)
    forced.cache_clear()
    for memory in (library._library, library.select):
        memory.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for memory in (library._library, library.select):
        memory.cache_clear()


@pytest.fixture
def tiny(tmp_path):
    """Sources that compile at once."""
    if building.find_compiler() is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "tiny.cpp").write_text(TINY)
    return tmp_path / "csrc"


@pytest.fixture
def whole(tmp_path):
    """A folder with a copy of the library that is in use here."""
    loaded = library.loaded()
    if isinstance(loaded, str):
        pytest.skip(loaded)
    folder = tmp_path / "qdit" / "kernels"
    folder.mkdir(parents=True)
    for file in (loaded.built.path, loaded.built.path.with_suffix(".json")):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def assert_torch_computes():
    assert library.backend_name() == "torch" and library.available() == ("torch",)
    x, weight = torch.randn(3, 24), pack_weight(*weight_of(4, 5, 24, 4, 0), bits=4)
    assert torch.equal(dispatch.grouped_linear(x, weight), reference.grouped_linear(x, weight))
    assert torch.equal(dispatch.fake_quantize_groups(x, 4, 8), reference.fake_quantize_groups(x, 4, 8))


def test_without_a_compiler_torch_computes_and_one_line_says_so(fresh, tmp_path, caplog):
    fresh.setattr(building, "find_compiler", lambda: None)
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert_torch_computes()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "plain torch" in line and "no C++ compiler" in line


def test_without_a_compiler_a_library_that_was_built_before_is_used(fresh, whole, tmp_path):
    library._library.cache_clear()
    fresh.setattr(building, "find_compiler", lambda: None)
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = library.loaded()
    assert isinstance(loaded, library.Loaded) and loaded.built.path.parent == whole


def test_without_a_home_there_is_no_library_and_a_line_that_says_so(fresh):
    fresh.setattr(building, "SHIPPED", building.SOURCES / "nothing")
    fresh.delenv("XDG_CACHE_HOME", raising=False)
    fresh.setattr(building.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(BuildError, match="set XDG_CACHE_HOME"):
        building.cache_folder()


def test_compilers_are_looked_for_in_order(fresh):
    there = {"g++": "/usr/bin/g++", "clang++": "/usr/bin/clang++", "own": "/opt/own"}
    fresh.delenv("CXX", raising=False)
    fresh.setattr(building.shutil, "which", there.get)
    assert building.find_compiler() == ["/usr/bin/g++"]
    fresh.setenv("CXX", "own -m64")
    assert building.find_compiler() == ["/opt/own", "-m64"]
    there.clear()
    fresh.setattr(building.importlib.util, "find_spec", lambda name: name == "ziglang" or None)
    assert building.find_compiler() == [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]
    fresh.setattr(building.importlib.util, "find_spec", lambda name: None)
    assert building.find_compiler() is None


@pytest.mark.ci
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("linear.cpp", "pair(zero, zero << 7)", "zero"),
        # another loop of the same self-test
        pytest.param("generic.h", "y[n] = y[n] + bias[n]", "y[n] = y[n] - bias[n]", marks=pytest.mark.slow),
    ],
)
def test_a_library_that_computes_something_else_is_refused(fresh, tmp_path, caplog, file, right, wrong):
    if building.find_compiler() is None:
        pytest.skip("no C++ compiler")
    sources = tmp_path / "csrc"
    sources.mkdir()
    for source in building.SOURCES.iterdir():
        text = source.read_text()
        if source.name == file:
            assert right in text
            text = text.replace(right, wrong)
        (sources / source.name).write_text(text)
    fresh.setattr(library, "SOURCES", sources)
    fresh.setattr(building, "FLAGS", ("-O0", *building.FLAGS[1:]))
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert_torch_computes()
    assert "wrong numbers" in caplog.text
    assert not (tmp_path / "qdit" / "kernels" / "tested").exists()


def test_a_library_of_another_version_or_kind_is_refused(tiny, tmp_path):
    with pytest.raises(BuildError, match="cannot be opened"):
        library.load(tiny, tmp_path)  # qdit_variants is missing
    (tiny / "tiny.cpp").write_text(TINY + EXPORT + "qdit_variants() { return 1; }\n")
    with pytest.raises(BuildError, match="version 99"):
        library.load(tiny, tmp_path)
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(BuildError, match="cannot be opened"):
        library.open_library(text)


def test_what_is_built_is_used_again_unless_it_is_damaged(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "FLAGS", ("-shared", "-fPIC"))
    folder = tmp_path / "cache"
    built = building.build(tiny, folder)
    whole, before = built.path.read_bytes(), built.path.stat().st_mtime_ns
    assert building.build(tiny, folder) == built and built.path.stat().st_mtime_ns == before
    assert building.find(tiny, tmp_path, folder) == built
    built.path.unlink()
    built.path.write_bytes(whole[:100])
    assert building.find(tiny, folder) is None
    assert building.build(tiny, folder).path.stat().st_size == len(whole)
    seal = built.path.with_suffix(".json")
    seal.write_text(json.dumps({"sha256": "0" * 64, "compiler": "?"}))
    assert building.find(tiny, folder) is None
    building.build(tiny, folder)
    before = built.path.stat().st_mtime_ns
    assert building.build(tiny, folder, again=True).path.stat().st_mtime_ns > before
    (tiny / "tiny.cpp").write_text(TINY + "// another\n")
    assert building.build(tiny, folder).path != built.path
    assert {file.suffix for file in folder.iterdir() if file.name != ".lock"} == {".so", ".json"}


def test_of_several_processes_one_builds(tiny, tmp_path, repository):
    log = tmp_path / "log"
    compiler = tmp_path / "compiler"
    real = building.find_compiler()
    assert real is not None
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || {{ echo x >> {log}; sleep 1; }}\nexec {" ".join(real)} "$@"\n'
    )
    compiler.chmod(0o755)
    code = (
        "import sys, pathlib; from qdit.kernels import building;"
        "building.FLAGS = ('-shared', '-fPIC');"
        "print(building.build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).sha256)"
    )
    command = [sys.executable, "-c", code, str(tiny), str(tmp_path / "cache")]
    environment = {**os.environ, "CXX": str(compiler)}
    started = [
        subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert len(said) == 1 and all(process.returncode == 0 for process in started)
    assert log.read_text() == "x\n"


def test_the_test_is_made_once_for_a_library_and_a_processor(fresh, whole, tmp_path):
    from qdit.kernels import selftest

    made = []
    right = selftest.disagreement
    fresh.setattr(selftest, "disagreement", lambda backend: made.append(backend.name) or right(backend))
    for expected in (True, False):
        library.load(building.SOURCES, whole)
        assert bool(made) == expected
        made.clear()
    fresh.setattr(library, "_circumstances", lambda: "another processor")
    library.load(building.SOURCES, whole)
    assert made
    fresh.setattr(selftest, "disagreement", lambda backend: "sums")
    fresh.setattr(library, "_circumstances", lambda: "a third processor")
    for _ in range(2):  # what fails is not remembered as tested
        with pytest.raises(BuildError, match="gives wrong numbers"):
            library.load(building.SOURCES, whole)


def test_a_tampered_library_is_not_opened(fresh, whole, tmp_path):
    (path,) = whole.glob("*.so")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    fresh.setattr(building, "find_compiler", lambda: None)
    fresh.setattr(library, "open_library", lambda path: pytest.fail("opened"))
    with pytest.raises(BuildError, match="no C"):
        library.load(building.SOURCES, whole)


def test_sources_that_do_not_compile_are_an_error_of_one_line(tiny, tmp_path):
    (tiny / "tiny.cpp").write_text("int broken(")
    with pytest.raises(BuildError, match="failed: .*error") as caught:
        building.build(tiny, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot be built"):
        building.build(tiny, tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ["amx-int8", "avx512-vnni", "avx2", "neon-i8mm", "neon-dotprod", "scalar", "torch"])
def test_a_backend_can_be_forced(monkeypatch, name):
    monkeypatch.setenv(backend.FORCE, name)
    forced.cache_clear()
    if name in library.available():
        assert library.backend_name() == name
    else:
        with pytest.raises(ConfigError, match="not available"):
            library.backend_name()


def test_forcing_what_does_not_exist_is_an_error(fresh, tmp_path):
    with pytest.raises(
        ConfigError, match="QDIT_KERNELS=fast: allowed are amx-int8, avx512-vnni, avx-vnni, avx2, .* and torch"
    ):
        library.select("fast")
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh.setattr(building, "find_compiler", lambda: None)
    with pytest.raises(ConfigError, match="QDIT_KERNELS=avx2 is not available: no C"):
        library.select("avx2")


def test_forcing_what_this_processor_has_not_is_an_error(fresh):
    if library.available() == ("torch",):
        pytest.skip("no compiled library")
    fresh.setattr(library, "_runs", lambda loaded, name: name == "scalar")
    with pytest.raises(ConfigError, match="not available on this processor: here run scalar, torch"):
        library.select("avx2")


def test_triton_is_for_gpus_and_leaves_the_cpu_its_fastest(fresh):
    assert library.select("triton").name == library.select("").name
    if not torch.cuda.is_available():
        fresh.setenv(backend.FORCE, "triton")
        forced.cache_clear()
        with pytest.raises(ConfigError, match="QDIT_KERNELS=triton is not available: there is no CUDA device"):
            library.backend_name("cuda")
        fresh.delenv(backend.FORCE)
        forced.cache_clear()
        assert library.backend_name("cuda:0") == "torch"


def test_importing_builds_and_loads_nothing(tmp_path, repository):
    code = "import sys, qdit.kernels.dispatch; assert 'triton' not in sys.modules"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    assert python(["-c", code], repository, environment=environment).returncode == 0
    assert list(tmp_path.iterdir()) == []
