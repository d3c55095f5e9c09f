"""What every command checks before it starts: no output replaces an input, each has a place, numbers are finite."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qdit.cli import guard
from qdit.cli import main as cli
from tests.cli.outcome import NATURAL, Qdit, assert_one_line


@pytest.fixture
def inputs(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights, a folder of a model, and a link to the weights; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(repository / "weights" / NATURAL, "w.safetensors")
    Path("flux").mkdir()
    Path("flux", "config.json").write_text("{}", encoding="utf-8")
    Path("link.safetensors").symlink_to("w.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("calibrate w.safetensors w.safetensors", "OUT w.safetensors: is also the input WEIGHTS of this command"),
        ("calibrate w.safetensors ./flux/../w.safetensors", "is also the input WEIGHTS"),
        ("calibrate w.safetensors link.safetensors", "is also the input WEIGHTS"),
        ("quantize flux flux --method rtn", "OUT flux: is also the input WEIGHTS"),
        ("quantize flux out --method ptqd --base out", "OUT out: is also the input --base"),
        ("quantize flux w.safetensors --method rtn --calibration trajectory=w.safetensors", "the input --calibration"),
        ("export flux flux", "FOLDER flux: is also the input CHECKPOINT"),
        ("import-weights w.safetensors w.safetensors", "is also the input SOURCE"),
        ("reference w.safetensors --data w.safetensors", "is also the input --data"),
        ("search w.safetensors w.safetensors", "is also the input WEIGHTS"),
        ("vbench gather w.safetensors link.safetensors", "is also the input RESULTS"),
        ("votes flux --page w.safetensors --out w.safetensors", "is also the input --page"),
        ("report --results flux --out flux", "is also the input --results"),
        ("bench coverage --out study --page ./study", "--out study: is also the output --page"),
    ],
)
def test_no_output_replaces_an_input_or_another_output(qdit: Qdit, inputs: Path, words: str, part: str) -> None:
    before = Path("w.safetensors").read_bytes()
    assert_one_line(qdit(*words.split()), part, "give two different paths")
    assert Path("w.safetensors").read_bytes() == before and Path("flux", "config.json").read_text() == "{}"
    assert sorted(path.name for path in inputs.iterdir()) == ["flux", "link.safetensors", "w.safetensors"]


@pytest.mark.parametrize(
    "words",
    [
        "bench coverage --out w.safetensors/study.json --page page.md",
        "bench coverage --out study.json --page w.safetensors/new/page.md",
        "train dit w.safetensors/run",
        "--benchmark w.safetensors/x.json ls",
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    qdit: Qdit, inputs: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdit.bench.coverage_study.coverage_study", lambda plan: pytest.fail("it has worked already"))
    assert_one_line(qdit(*words.split()), "cannot be written", "w.safetensors is not a folder")


def test_a_folder_without_permission_is_said_before_the_work(
    qdit: Qdit, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test may run as root, who may write everywhere. So the answer of the system is replaced for one folder."""
    os_access = os.access

    def access(path: Path, mode: int) -> bool:
        return os_access(path, mode) and not (Path(path).name == "flux" and mode & os.W_OK)

    monkeypatch.setattr(guard.os, "access", access)
    words = ["bench", "coverage", "--page", "page.md", "--out"]
    assert_one_line(qdit(*words, "flux/study.json"), "--out flux/study.json", "no permission to write in")
    assert_one_line(qdit("quantize", "w.safetensors", "flux", "--method", "rtn"), "OUT flux: cannot be written")


@pytest.mark.parametrize(
    "words",
    [
        "bench kernels flux",
        "bench coverage --page page.md --out flux",
        "calibrate w.safetensors flux",
        "search w.safetensors .",
        "search w.safetensors /",
        "reference flux",
        "video suite flux",
        "--benchmark flux ls",
    ],
)
def test_a_folder_in_the_place_of_a_file_is_said_before_the_work(
    qdit: Qdit, inputs: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("qdit.bench.coverage_study.coverage_study", "qdit.bench.kernels.measure"):
        monkeypatch.setattr(name, lambda *arguments: pytest.fail("it has worked already"))
    assert_one_line(qdit(*words.split()), "is a folder, the output is a file")
    assert [path.name for path in Path("flux").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("doctor --tflops nan", "'--tflops': Input should be greater"),
        ("doctor --tflops inf", "tflops inf: is not a finite number; give --tflops"),
        ("vbench clips flux out --count 1 --fps nan", "'--fps': Input should be greater"),
        ("votes w.safetensors --least nan", "'--least': Input should be less"),
        ("train video out --two-objects nan", "'--two-objects': Input should be less"),
        ("evaluate flux m.json --shift inf", "shift inf"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_every_command(
    qdit: Qdit, inputs: Path, words: str, part: str
) -> None:
    assert_one_line(qdit(*words.split()), part)
    assert not Path("out").exists()


def leaves(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command of the program with its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *path, name)
        else:
            yield " ".join([*path, name]), command


def test_every_parameter_that_a_command_writes_to_is_an_output() -> None:
    commands = dict(leaves(get_command(cli.app))).items()
    outputs = {name: {p.name for p in of.params if guard.is_output(p)} for name, of in commands}
    assert outputs["export"] == {"folder"} and outputs["vbench clips"] == {"folder", "listing"}
    assert outputs["bench outliers"] == {"out", "page", "figure"} and outputs["train video-quality"] == {
        "out",
        "picture",
    }
    assert outputs["vbench run"] == {"out"} and outputs["vbench score"] == {"out"}, "the listing is an input there"
    assert outputs["features"] == set()
    files = {name: {p.name for p in of.params if guard.is_output(p) and guard.is_file(p)} for name, of in commands}
    assert files["export-samples"] == files["video clips"] == files["quantize"] == files["table"] == set()
    assert files["vbench clips"] == {"listing"} and files["search"] == files["evaluate"] == {"out"}


def test_the_name_of_a_data_set_is_no_path(qdit: Qdit, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("qdit.mini.reference.make_mini_reference", lambda *arguments: made.append(arguments))
    Path("digits").write_bytes(b"a reference file of an earlier call")
    assert qdit("reference", "digits").code == 0 and made[0][0] == "digits"


@pytest.mark.parametrize("name", ["study.json", "new/folder/study.json", "flux", "link.safetensors"])
def test_good_places_pass(inputs: Path, name: str) -> None:
    guard.require_place(Path(name), "--out")
    guard.require_place(inputs / name, "--out")


@pytest.mark.parametrize("digest", ["xyz", "abc", "0x123456789", "ba7816bf-8f01"])
@pytest.mark.parametrize("command", ["check-file w.safetensors", "import-weights w.safetensors out"])
def test_a_digest_that_is_none_is_not_called_damage(qdit: Qdit, inputs: Path, command: str, digest: str) -> None:
    assert_one_line(qdit(*command.split(), "--sha256", digest), f"--sha256 '{digest}'", "hexadecimal digits")


def test_a_digest_in_capital_letters_is_the_same_digest(qdit: Qdit, inputs: Path) -> None:
    Path("abc").write_bytes(b"abc")
    assert qdit("check-file", "abc", "--sha256", "BA7816BF8F01CFEA").code == 0
    assert_one_line(qdit("check-file", "abc", "--sha256", "BA7816BF8F01CFEB"), "the file is damaged or another one")


@pytest.mark.parametrize("words", ["table table2 --out", "claims --out", "bench show w.safetensors --out"])
@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_page_needs_a_name(qdit: Qdit, inputs: Path, words: str, path: str) -> None:
    assert_one_line(qdit(*words.split(), path), f"--out {path}: is a folder; add the name of the page")


@pytest.mark.parametrize("device", ["gpu", "cuda:x"])
@pytest.mark.parametrize("words", ["train dit out", "train video out", "bench block out", "bench gpu"])
def test_devices_of_trainings_and_benchmarks_are_checked(qdit: Qdit, inputs: Path, words: str, device: str) -> None:
    assert_one_line(qdit(*words.split(), "--device", device), f"device '{device}': allowed are cpu, cuda")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError("Unable to allocate 1.42 PiB for an array"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried\n to"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory_is_one_line(
    qdit: Qdit, inputs: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def study(plan: Any) -> Any:
        raise problem

    monkeypatch.setattr("qdit.bench.coverage_study.coverage_study", study)
    outcome = qdit("bench", "coverage", "--out", "study.json", "--page", "page.md")
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("qdit: error: too little memory (") and "take smaller numbers" in outcome.err


def test_another_error_of_the_program_keeps_its_traceback(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def study(plan: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("qdit.bench.coverage_study.coverage_study", study)
    monkeypatch.setattr(sys, "argv", ["qdit", "bench", "coverage", "--out", "study.json", "--page", "page.md"])
    monkeypatch.delenv(cli.DEBUG, raising=False)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli.main()


def test_characters_that_the_terminal_lacks_are_replaced(repository: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "qdit", "--help"]
    done = subprocess.run(command, capture_output=True, encoding="latin-1", env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "weights \\u2192 calibrate" in done.stdout and done.stderr == ""
