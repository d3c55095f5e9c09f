"""Each step from weights to metrics by hand, and damaged weights: one line and exit code 2."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdit.core.files import load_arrays, load_tensors, read_json, save_tensors
from tests.cli.outcome import NATURAL, SMALL, Qdit, assert_one_line, bit_flipped


def test_every_step_by_hand(qdit: Qdit, weights: Path, repository: Path, trajectory: Path, tmp_path: Path) -> None:
    full, quantized, reference = tmp_path / "fp", tmp_path / "q-dit", tmp_path / "reference.npz"
    classifier = repository / "weights" / "digit-classifier.safetensors"
    make = ["--calibration", f"trajectory={trajectory}", "--options", '{"group_size": 16}']
    sampling = ["--images", 8, "--chunk", 4, *SMALL]
    scoring = ["--images", 8, *SMALL, "--reference-file", reference, "--extractor-weights", classifier]
    assert qdit("quantize", weights, full, "--method", "fp", "--bits", "w16a16").code == 0
    assert qdit("quantize", weights, quantized, "--method", "q-dit", *make).code == 0
    for folder in (full, quantized):
        assert qdit("sample", folder, folder / "samples", *sampling).code == 0
        assert qdit("features", folder / "samples", "--extractor-weights", classifier).code == 0
    assert len(load_arrays(quantized / "samples" / "00001.npz")["images"]) == 4
    assert qdit("reference", reference, "--extractor-weights", classifier).code == 0
    score = qdit(
        *("evaluate", quantized / "samples", tmp_path / "metrics.json", "--checkpoint", quantized, *scoring),
        *("--fp-samples", full / "samples", "--label", "mine"),
    )
    assert score.code == 0
    record = read_json(tmp_path / "metrics.json")
    assert record["run"]["label"] == "mine"
    assert record["run"]["method"] == "q-dit"
    assert record["run"]["weight_bits"] == 4
    assert record["metrics"]["mse_fp"] > 0
    low, high = record["intervals"]["mse_fp"]
    assert low <= record["metrics"]["mse_fp"] <= high and record["bootstrap"]["resampled"] == "images"
    assert len(load_arrays(tmp_path / "bootstrap.npz")["fid"]) == 200


def test_group_size_that_does_not_divide(qdit: Qdit, weights: Path, trajectory: Path, tmp_path: Path) -> None:
    make = ["--calibration", f"trajectory={trajectory}", "--options", '{"group_size": 7}']
    assert_one_line(qdit("quantize", weights, tmp_path / "out", "--method", "q-dit", *make), "7", "144")


def test_a_graph_needs_a_gpu(qdit: Qdit, tmp_path: Path) -> None:
    outcome = qdit("sample", tmp_path / "q", tmp_path / "samples", "--cuda-graph")
    assert_one_line(outcome, "--cuda-graph with --device cpu", "give --device cuda")


def test_missing_calibration_data(qdit: Qdit, weights: Path, tmp_path: Path) -> None:
    outcome = qdit("quantize", weights, tmp_path / "out", "--method", "rtn")
    assert_one_line(outcome, "trajectory", "qdit calibrate")


def test_calibration_data_with_nan(qdit: Qdit, weights: Path, trajectory: Path, tmp_path: Path) -> None:
    tensors, metadata = load_tensors(trajectory)
    tensors["x"][1, 0, 3, 3] = np.nan
    save_tensors(trajectory, tensors, metadata)
    make = ["--calibration", f"trajectory={trajectory}"]
    outcome = qdit("quantize", weights, tmp_path / "out", "--method", "rtn", *make)
    assert_one_line(outcome, str(trajectory), "NaN")


def test_zero_images(qdit: Qdit, weights: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "fp"
    assert qdit("quantize", weights, checkpoint, "--method", "fp", "--bits", "w16a16").code == 0
    assert_one_line(qdit("sample", checkpoint, tmp_path / "samples", "--images", 0, *SMALL), "images 0")


class Payload:
    """What a malicious file does when it is unpickled: it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent / "payload-ran")))


def of_another_width(path: Path) -> None:
    (path.parent / "manifest.json").unlink()
    tensors, metadata = load_tensors(path)
    metadata["model"]["hidden_size"] = 72
    save_tensors(path, tensors, metadata)


@pytest.mark.parametrize("damage", [truncated, bit_flipped, pickled, of_another_width])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_weights(
    qdit: Qdit, weights: Path, tmp_path: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    path = folder / NATURAL
    shutil.copy(weights, path)
    shutil.copy(weights.with_name("manifest.json"), folder)
    damage(path)
    if suffix == ".pt":
        path = path.rename(path.with_suffix(".pt"))
    outcome = qdit("quantize", path, tmp_path / "out", "--method", "fp", "--bits", "w16a16")
    assert_one_line(outcome, str(path))
    assert not (folder / "payload-ran").exists()
    assert not (tmp_path / "out").exists()


def test_payload_of_the_test_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    pickled(tmp_path / "file")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "payload-ran").exists()
