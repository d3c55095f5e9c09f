"""What a method fails at is written down and handed on to the tables; what the machine fails at stays an error."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from qdit.cli import main as cli
from qdit.core.errors import CheckpointError, ConfigError, DataError, Diverged, Unsupported
from qdit.core.failure import Failure, is_result, method_code, recording
from qdit.core.files import load_arrays, load_tensors, read_json, save_tensors, sha256_json
from qdit.kernels.building import BuildError
from qdit.methods.registry import find_method
from qdit.models.loading import load_model
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.correction import NoiseCorrection
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
    for wrong in ({"step": "sample"}, failure.to_dict()["failure"] | {"reason": "another"}, "x", 1):
        with pytest.raises((TypeError, ValueError)):
            Failure.within({"failure": wrong})
    for change in ({"kind": "odd"}, {"reason": 1}, {"step": None}, {"sha256": None}):
        with pytest.raises(TypeError):
            Failure.within({"failure": failure.to_dict()["failure"] | change})


def caused(problem: Exception, cause: BaseException) -> Exception:
    problem.__cause__ = cause
    return problem


class CompilationError(Exception):
    """As triton's."""


RESULTS = [  # (exception, is it a result where a method's own code let it out, is it one elsewhere)
    (Unsupported("3 bits are too few"), True, True),
    (Diverged("images hold NaN"), True, True),
    (ValueError("no such group"), True, False),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), True, False),
    (ZeroDivisionError("division by zero"), True, False),
    (IndexError("index 9 is out of bounds"), True, False),
    (torch.linalg.LinAlgError("the input is not positive-definite"), True, False),
    (ConfigError("group_size 7 does not divide 144"), True, False),
    (DataError("no calibration inputs reached this layer"), True, False),
    (CheckpointError("model.safetensors: sha256 is another"), False, False),
    (SafetensorError("header too large"), False, False),
    (zipfile.BadZipFile("Bad CRC-32"), False, False),
    (EOFError("compressed file ended"), False, False),
    (OSError(28, "No space left on device"), False, False),
    (ConnectionResetError("peer"), False, False),
    (ModuleNotFoundError("No module named 'scipy'"), False, False),
    (subprocess.CalledProcessError(1, ["c++"]), False, False),
    (BuildError("no compiler"), False, False),
    (caused(Unsupported("no kernel"), BuildError("no compiler")), False, False),
    (caused(ValueError("cannot"), OSError(5, "Input/output error")), False, False),
    (CompilationError("at 1:0"), False, False),
    (MemoryError(), False, False),
    (torch.OutOfMemoryError("CUDA out of memory"), False, False),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), False, False),
    (RuntimeError("Expected all tensors to be on the same device, but found at least two devices"), False, False),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), False, False),
    (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), False, False),
    (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), False, False),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, False),
    (RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"), False, False),
    (RuntimeError("no kernel image is available for execution on the device"), False, False),
    (RuntimeError("Unable to find an engine to execute this computation"), False, False),
    (RuntimeError("No CUDA GPUs are available"), False, False),
    (KeyboardInterrupt(), False, False),
    (SystemExit(1), False, False),
]


OF_DEVICES = [  # what torch 2.11 to 2.15 and Triton 3.6 say, long texts shortened
    RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        "(when checking argument for argument state_steps in method wrapper_CUDA___fused_adam_)"
    ),
    RuntimeError(
        "Expected all tensors to be on the same device, but got mat2 is on cpu, different from other tensors on cuda:0 "
        "(when checking argument in method wrapper_CUDA_mm)"
    ),
    RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)"),
    RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'"),
    RuntimeError("Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same"),
    RuntimeError("Tensor for argument #2 'mat1' is on CPU, but expected it to be on GPU (while checking mm)"),
    RuntimeError("params, grads, exp_avgs, and exp_avg_sqs must have same dtype, device, and layout"),
    RuntimeError("output with device cpu doesn't match the desired device cuda:0"),
    TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory."),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("Deterministic behavior was enabled, but this operation is not deterministic because it uses CuBLAS"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnSpotrf( handle, uplo, n)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU."),
    RuntimeError("nvrtc: error: invalid value for --gpu-architecture (-arch)"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ValueError("Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)"),
    NotImplementedError("\"round_cuda\" not implemented for 'Int'"),
    NotImplementedError("Could not run 'aten::_int_mm' with arguments from the 'CUDA' backend."),
]


@pytest.mark.parametrize("problem", OF_DEVICES, ids=lambda problem: str(problem)[:40])
def test_what_a_device_says_is_nobodys_result(problem: Exception) -> None:
    written: list[Failure] = []
    with (
        pytest.raises(type(problem)),
        recording("quantize", written.append, enabled=True),
        method_code(),
    ):
        raise problem
    assert not written and not is_result(problem)


@pytest.mark.parametrize(("problem", "by_method", "elsewhere"), RESULTS, ids=lambda value: type(value).__name__)
def test_what_is_a_methods_result(problem: BaseException, by_method: bool, elsewhere: bool) -> None:
    assert is_result(problem) == elsewhere
    written: list[Failure] = []
    if elsewhere:
        with recording("sample", written.append, enabled=True):
            raise problem
    else:
        with pytest.raises(type(problem)), recording("sample", written.append, enabled=True):
            raise problem
    assert len(written) == elsewhere
    with pytest.raises(type(problem)), method_code():
        raise problem
    assert is_result(problem) == by_method
    with pytest.raises(type(problem)), recording("quantize", written.append, enabled=False):
        raise problem
    assert len(written) == elsewhere


def test_a_result_is_written_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    written: list[Failure] = []
    with recording("quantize", written.append, enabled=True), method_code():
        raise ValueError("no such group")
    assert written == [Failure("quantize", "failed", "ValueError: no such group")]
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("qdit: recorded: failed in quantize: ValueError: no such group\n")


@pytest.mark.parametrize("failure", [Failure("quantize", "failed", "x: y"), Failure("sample", "unsupported", "z")])
def test_a_tables_text_says_what_kind_of_failure_it_was(failure: Failure) -> None:
    for text in (failure.text, f"full precision: {failure.text}"):
        parsed = Failure.parse(text)
        assert (parsed.kind, parsed.reason) == (failure.kind, text)
        assert parsed.step == (failure.step if failure.kind == "failed" else "")
    assert Failure.parse("something else").kind == "failed"


def test_a_failed_folder_is_whole_and_no_checkpoint(tmp_path: Path) -> None:
    failure = Failure("quantize", "unsupported", "needs 8 bits")
    write_failure(tmp_path, failure)
    assert read_failure(tmp_path) == failure
    assert load_tensors(tmp_path / TENSORS_FILE) == ({}, None)
    fields = {"step": "quantize", "kind": "unsupported", "reason": "needs 8 bits"}
    stored = {"format": 1, "failure": fields | {"sha256": sha256_json(fields)}}
    assert read_json(tmp_path / CONFIG_FILE) == stored
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / CONFIG_FILE).write_text('{"failure": {"step": 1}}')
    edited = stored | {"failure": stored["failure"] | {"reason": "needs 4 bits"}}  # type: ignore[operator]
    for content in ({"failure": {"step": 1}}, edited):
        (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
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
    assert runs.quantize("full") == 1
    for problem in (
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
        BuildError("no compiler"),
    ):
        monkeypatch.setattr(fp, "quantize", failing(problem))
        with pytest.raises(type(problem)):
            runs.quantize("full")
    assert not (runs.folder / "full").exists()


def test_damaged_files_and_wrong_options_are_nobodys_result(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.quantize("typo", "--options", '{"group_size": 16}') == 2
    whole, runs.weights = runs.weights, runs.folder / "damaged.safetensors"
    runs.weights.write_bytes(whole.read_bytes()[:1000])
    assert runs.quantize("damaged") == 2
    runs.weights = whole
    assert not (runs.folder / "typo").exists() and not (runs.folder / "damaged").exists()
    assert runs.quantize("good") == 0
    (runs.folder / "good" / TENSORS_FILE).write_bytes(b"no tensors")
    assert runs.sample("good", "--record-failure") == 2
    assert not list(runs.samples("good").glob("shard-*"))
    assert runs.quantize("good") == 0 and runs.sample("good", "--record-failure") == 0
    chunk = runs.samples("good") / "00000.npz"
    before = chunk.read_bytes()
    chunk.write_bytes(re.sub(rb"(?<=PK\x01\x02....).", b"\x01", before, flags=re.DOTALL))  # "encrypted"
    assert chunk.read_bytes() != before
    assert runs.sample("good", "--record-failure") == 0
    assert chunk.read_bytes() == before


def test_a_correction_that_fails_is_the_methods_and_a_crash_of_the_network_is_not(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object, **options: object) -> None:
        raise RuntimeError("bad shapes")

    model = load_model(runs.weights)
    correction = NoiseCorrection(slope=torch.zeros(2), bias=torch.zeros(2, 1), residual=torch.zeros(2))
    save_checkpoint(runs.folder / "corrected", Quantized(model, correction), {})
    with monkeypatch.context() as broken:
        broken.setattr(NoiseCorrection, "apply", crash)
        assert runs.sample("corrected", "--record-failure") == 0
    recorded = Failure.within(read_json(runs.samples("corrected") / "shard-000.json"))
    assert recorded == Failure("sample", "failed", "RuntimeError: bad shapes")
    monkeypatch.setattr(type(model), "forward", crash)
    with pytest.raises(RuntimeError, match="bad shapes"):
        runs.sample("corrected", "--record-failure")


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
