"""What a method fails at is written down and handed on to the tables; what the machine fails at stays an error."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qdit.cli import main as cli
from qdit.core.errors import CheckpointError, ConfigError, DataError, Unsupported
from qdit.core.failure import Failure, is_of_the_machine, raised_in, recording
from qdit.core.files import load_arrays, load_tensors, read_json, save_tensors
from qdit.methods.registry import find_method
from qdit.quant.checkpoint import load_checkpoint
from qdit.quant.folder import CONFIG_FILE, TENSORS_FILE, read_failure, write_failure

Qdit = Callable[..., int]
SAMPLING = ["--images", 4, "--chunk", 2, "--steps", 2]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Unsupported("3 bits\nare too few"), "unsupported: 3 bits are too few"),
        (DataError("images hold NaN"), "failed in sample: images hold NaN"),
        (ZeroDivisionError("division\nby zero"), "failed in sample: ZeroDivisionError: division by zero"),
    ],
)
def test_a_failure_is_one_line_that_survives_json(problem: Exception, text: str) -> None:
    failure = Failure.of("sample", problem)
    assert failure.text == text
    assert Failure.within(failure.to_dict()) == failure
    assert Failure.within({"format": 1}) is None
    assert Failure.within([]) is None
    with pytest.raises(TypeError):
        Failure.within({"failure": {"step": "sample"}})


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        OSError(28, "No space left on device"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
)
def test_what_the_machine_fails_at_is_raised(problem: BaseException) -> None:
    written: list[Failure] = []
    with pytest.raises(type(problem)), recording("quantize", written.append, recordable=lambda _: True):
        raise problem
    assert written == []


def test_what_is_recordable_is_written_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    written: list[Failure] = []
    with recording("quantize", written.append, recordable=lambda _: True):
        raise ValueError("no such group")
    assert written == [Failure("quantize", "failed", "ValueError: no such group")]
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("qdit: recorded: failed in quantize: ValueError: no such group\n")
    assert not is_of_the_machine(ValueError("no such group"))
    with pytest.raises(ConfigError), recording("quantize", written.append, recordable=lambda _: False):
        raise ConfigError("bits 9")


def test_where_an_exception_came_from() -> None:
    with pytest.raises(ConfigError) as caught:
        find_method("nothing")
    assert raised_in(caught.value, "qdit.methods.registry")
    assert not raised_in(caught.value, "qdit.methods.q_dit")


def test_a_failed_folder_is_whole_and_no_checkpoint(tmp_path: Path) -> None:
    failure = Failure("quantize", "unsupported", "needs 8 bits")
    write_failure(tmp_path, failure)
    assert read_failure(tmp_path) == failure
    assert load_tensors(tmp_path / TENSORS_FILE) == ({}, None)
    assert read_json(tmp_path / CONFIG_FILE) == {
        "format": 1,
        "failure": {"step": "quantize", "kind": "unsupported", "reason": "needs 8 bits"},
    }
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / CONFIG_FILE).write_text('{"failure": {"step": 1}}')
    with pytest.raises(CheckpointError, match="a failure that cannot be read"):
        read_failure(tmp_path)


@pytest.fixture
def qdit(monkeypatch: pytest.MonkeyPatch) -> Qdit:
    """Run a command in this process; its exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
        monkeypatch.delenv(cli.DEBUG, raising=False)
        with monkeypatch.context() as inner:
            inner.setattr(os, "environ", {**os.environ})
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    return call


class Runs:
    """Runs in a folder, made by the three commands as the workflow calls them."""

    def __init__(self, qdit: Qdit, repository: Path, folder: Path) -> None:
        self.qdit, self.folder = qdit, folder
        self.weights = repository / "weights" / "dit-digits-natural.safetensors"
        self.classifier = ["--extractor-weights", repository / "weights" / "digit-classifier.safetensors"]
        self.reference = folder / "reference.npz"

    def quantize(self, name: str, *arguments: object, method: str = "fp", bits: str = "w16a16") -> int:
        flags = ["--method", method, "--bits", bits, "--record-failure", *arguments]
        return self.qdit("quantize", self.weights, self.folder / name, *flags)

    def sample(self, name: str, *arguments: object) -> int:
        extract = ["--extractor", "digit-classifier", *self.classifier]
        return self.qdit("sample", self.folder / name, self.samples(name), *SAMPLING, *extract, *arguments)

    def samples(self, name: str) -> Path:
        return self.folder / name / "samples"

    def evaluate(self, name: str, full: str) -> dict[str, Any]:
        out = self.folder / f"{name}.json"
        if not self.reference.exists():
            assert self.qdit("reference", self.reference, *self.classifier) == 0
        flags = ["--checkpoint", self.folder / name, "--images", 4, "--steps", 2, *self.classifier]
        flags += ["--reference-file", self.reference, "--fp-samples", self.samples(full)]
        assert self.qdit("evaluate", self.samples(name), out, *flags) == 0
        return dict(read_json(out))

    def all_steps(self, name: str, full: str = "fp") -> dict[str, Any]:
        assert self.sample(name, "--record-failure") == 0
        return self.evaluate(name, full)


@pytest.fixture
def runs(qdit: Qdit, repository: Path, tmp_path: Path) -> Runs:
    return Runs(qdit, repository, tmp_path)


def diverging(runs: Runs) -> None:
    """Weights whose images are not finite."""
    tensors, metadata = load_tensors(runs.weights)
    tensors["final_layer.linear.bias"] = torch.full_like(tensors["final_layer.linear.bias"], 3e38, dtype=torch.float32)
    runs.weights = runs.folder / "diverging.safetensors"
    save_tensors(runs.weights, tensors, metadata)


def failing(problem: BaseException) -> Callable[..., None]:
    def quantize(*arguments: object, **options: object) -> None:
        raise problem

    return quantize


def test_a_method_that_fails_goes_through_all_steps(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.quantize("good") == 0
    assert "metrics" in runs.all_steps("good", "good")
    cases = {
        "unsupported": (Unsupported("cannot do this"), "unsupported: cannot do this"),
        "crashed": (RuntimeError("bad\nshapes"), "failed in quantize: RuntimeError: bad shapes"),
    }
    for name, (problem, text) in cases.items():
        monkeypatch.setattr(type(find_method("fp")), "quantize", failing(problem))
        assert runs.quantize(name) == 0
        assert runs.all_steps(name, "good") == {"error": text, "status": text.split(" ")[0].rstrip(":")}
        listing = read_json(runs.samples(name) / "shard-000.json")
        assert listing["chunks"] == [] and listing["failure"]["step"] == "quantize"
        assert load_arrays(runs.samples(name) / "features-000.npz") == {}
    monkeypatch.undo()
    shutil.rmtree(runs.folder / "crashed")
    assert runs.quantize("crashed") == 0
    assert "metrics" in runs.all_steps("crashed", "good")


def test_without_the_flag_a_person_gets_the_error(runs: Runs, qdit: Qdit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(find_method("fp")), "quantize", failing(Unsupported("cannot do this")))
    assert qdit("quantize", runs.weights, runs.folder / "fp", "--method", "fp", "--bits", "w16a16") == 2
    assert not (runs.folder / "fp").exists()


def test_images_that_diverge_are_recorded_for_the_run_and_its_pairs(runs: Runs) -> None:
    assert runs.quantize("good") == 0
    assert runs.all_steps("good", "good")["metrics"]["mse_fp"] == 0
    diverging(runs)
    assert runs.quantize("wild") == 0
    assert runs.sample("wild") == 2
    assert not list(runs.samples("wild").glob("shard-*"))
    error = runs.all_steps("wild", "good")["error"]
    assert error.startswith("failed in sample: ") and "NaN or infinity" in error
    assert runs.evaluate("good", "wild") == {"error": f"full precision: {error}", "status": "missing"}


def test_the_machine_fails_the_job(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    fp = type(find_method("fp"))
    monkeypatch.setattr(fp, "quantize", failing(OSError(28, "No space left on device")))
    assert runs.quantize("full") == 2
    monkeypatch.setattr(fp, "quantize", failing(KeyboardInterrupt()))
    assert runs.quantize("full") != 0
    monkeypatch.setattr(fp, "quantize", failing(MemoryError()))
    with pytest.raises(MemoryError):
        runs.quantize("full")
    assert not (runs.folder / "full").exists()


def test_bad_input_is_an_error_but_options_a_method_refuses_are_recorded(runs: Runs, qdit: Qdit) -> None:
    assert runs.quantize("rtn", method="rtn", bits="w4a8") == 2, "calibration data is missing"
    assert runs.quantize("bits", bits="w9a9") == 2
    assert not (runs.folder / "rtn").exists() and not (runs.folder / "bits").exists()
    trajectory = runs.folder / "trajectory.safetensors"
    assert qdit("calibrate", runs.weights, trajectory, "--samples", 4, "--steps", 2) == 0
    make = ["--calibration", f"trajectory={trajectory}", "--options", '{"group_size": 7}']
    assert runs.quantize("q-dit", *make, method="q-dit", bits="w4a8") == 0
    failure = read_failure(runs.folder / "q-dit")
    assert failure is not None and failure.kind == "failed" and "144" in failure.reason
