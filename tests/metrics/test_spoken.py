"""`qdit evaluate` says its main numbers, their intervals, and what it could not compute."""

import json
from pathlib import Path
from typing import Any

import pytest

from qdit.core.files import sha256_json
from qdit.core.metrics_record import Status, without_numbers, write_record
from qdit.metrics.spoken import metrics_lines


def content(**metrics: float | None) -> dict[str, Any]:
    """A metrics.json of images."""
    protocol = {"sampler": "ddim", "steps": 2, "cfg_scale": 1.0, "images": 64, "chunk": 8, "seed": 0}
    protocol |= {"model": "m", "reference": {"name": "r", "sha256": "a" * 64}}
    protocol |= {"evaluator": {"name": "e", "sha256": "b" * 64}, "decoder": "none", "uint8": "truncate"}
    run = {"setting": "s", "form": "natural", "label": "rtn", "method": "rtn", "options": {}, "scope": "common"}
    values = {"fid": 3.0, "sfid": 2.0, "is": 9.0, "precision": 0.9, "recall": 0.9, "class_accuracy": 1.0}
    return {
        "run": run | {"weight_bits": 4, "activation_bits": 8, "allocation_sha256": None},
        "protocol": protocol,
        "protocol_sha256": sha256_json(protocol),
        "mode": "simulate",
        "backend": "torch",
        "inputs": {"weights_sha256": "c" * 64, "checkpoint_sha256": "d" * 64, "calibration_sha256": {}},
        "code": {},
        "packages": {},
        "size": {"paper_mb": 1.0, "actual_mb": 2.0},
        "metrics": values | {"fd_fp": None, "mse_fp": None} | metrics,
        "intervals": {"fid": [2.0, 4.5]},
    }


def lines_of(path: Path, record: dict[str, Any]) -> list[str]:
    path.write_text(json.dumps(record), encoding="utf-8")
    return metrics_lines(path)


def test_fid_and_what_is_missing_for_the_paired_metrics(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "metrics.json", content())
    assert lines[0] == f"{tmp_path / 'metrics.json'}: 64 images"
    assert lines[1] == "  FID 3.00, 95 % interval 2.00 to 4.50"
    assert lines[2].startswith("  PSNR-FP, FD-FP, MSE-FP: not computed") and "--fp-samples" in lines[2]
    assert lines[3].endswith("bootstrap.npz") and len(lines) == 4


def test_with_full_precision_the_paired_metrics_are_said(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "metrics.json", content(fd_fp=0.0025, mse_fp=1e-5, psnr_fp=50.0))
    assert lines[2:5] == ["  PSNR-FP 50.00 dB", "  FD-FP 0.00250", "  MSE-FP 1.00e-5"]
    assert not any("not computed" in line for line in lines)


def test_samples_that_equal_full_precisions_are_said_to(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "metrics.json", content(fd_fp=0.0, mse_fp=0.0, psnr_fp=None))
    assert lines[2:5] == ["  FD-FP 0.00", "  MSE-FP 0", "  the samples are equal to full precision’s"]
    assert not any("inf" in line or "not computed" in line for line in lines)


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNSUPPORTED])
def test_a_run_without_numbers_says_why(tmp_path: Path, status: Status) -> None:
    write_record(tmp_path / "metrics.json", without_numbers(status, "failed in sample: too hot"))
    assert metrics_lines(tmp_path / "metrics.json") == [
        f"{tmp_path / 'metrics.json'}: no numbers: failed in sample: too hot"
    ]
