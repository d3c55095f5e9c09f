"""metrics.json as one value: what is written is read back, and what cannot be true is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_json
from qdit.core.metrics_record import (
    MetricsRecord,
    Refused,
    Status,
    mismatch,
    read_record,
    without_numbers,
    write_record,
)
from qdit.core.run import BITS, Run, split_bits

SETTING = {"model": "dit", "sampler": "ddim", "steps": 20, "cfg_scale": 1.5}
FLOW = {"model": "dit", "sampler": "rectified-flow", "steps": 20, "cfg_scale": 1.5, "shift": 2.5}


def content(**protocol: Any) -> dict[str, Any]:
    """A whole metrics.json."""
    made = {"model": "dit", "sampler": "ddim", "steps": 20, "cfg_scale": 1.5, "seed": 0, "images": 64, "chunk": 8}
    made |= {"reference": {"name": "r", "sha256": "1"}, "evaluator": {"name": "e", "sha256": "2"}} | protocol
    run = {"setting": "s", "form": "natural", "label": "rtn", "method": "rtn", "weight_bits": 4, "activation_bits": 8}
    metrics = {"fid": 2.0, "sfid": 3.0, "is": 9.0, "precision": 0.9, "recall": None, "class_accuracy": None}
    return {
        "run": run | {"scope": "common", "options": {}, "allocation_sha256": None},
        "protocol": made,
        "protocol_sha256": sha256_json(made),
        "mode": "simulate",
        "backend": "torch",
        "inputs": {"checkpoint_sha256": "3", "weights_sha256": "4", "calibration_sha256": {}},
        "code": {"evaluate": "5"},
        "packages": {"numpy": "2"},
        "size": {"paper_mb": 1.5, "actual_mb": 2.5},
        "metrics": metrics | {"fd_fp": 0.015, "mse_fp": 1e-4} | dict.fromkeys(WITHOUT),
        "intervals": {"fd_fp": [0.01, 0.02]},
        "status": "ok",
    }


WITHOUT = ("mind_fp", "psnr_fp", "ssim_fp", "lpips_fp", "mind")
WITHOUT += ("clip_score", "image_reward", "fd_dino", "fd_dino_fp")
"""Optional metrics that this run does not have."""


def test_what_is_written_is_read_back_as_it_was(tmp_path: Path) -> None:
    record = MetricsRecord.from_json(content())
    write_record(tmp_path / "metrics.json", record)
    assert read_record(tmp_path / "metrics.json") == record
    assert json.loads((tmp_path / "metrics.json").read_text()) == content(), "nothing is added, nothing is lost"
    assert record.of == Run("s", "natural", "rtn", "w4a8", "common")


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNSUPPORTED, Status.MISSING])
def test_a_run_without_numbers_says_which_kind_it_is(tmp_path: Path, status: Status) -> None:
    write_record(tmp_path / "metrics.json", without_numbers(status, "any words"))
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"status": status.value, "error": "any words"}
    assert read_record(tmp_path / "metrics.json").status is status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("unsupported: W3A3", Status.UNSUPPORTED),
        ("failed in sample: NaN", Status.FAILED),
        ("full precision: failed in sample: NaN", Status.MISSING),
    ],
)
def test_files_from_before_there_was_a_status_are_still_read(error: str, status: Status) -> None:
    assert MetricsRecord.from_json({"error": error}).status is status
    old = content()
    del old["status"]
    assert MetricsRecord.from_json(old) == MetricsRecord.from_json(content())


UNTRUE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a number outside of its interval": (
        lambda c: c["metrics"].update(fd_fp=1e-9),
        "fd_fp is 1e-09, outside of its interval 0.01 to 0.02; evaluate it again",
    ),
    "a protocol edited afterwards": (lambda c: c["protocol"].update(steps=50), "protocol_sha256 is "),
    "a digest of another protocol": (lambda c: c.update(protocol_sha256="0" * 64), "protocol_sha256 is 000000000000…"),
}
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a text for a number": (lambda c: c["metrics"].update(fid="2.0"), "no number 'fid'"),
    "a truth for a number": (lambda c: c["metrics"].update(fid=True), "no number 'fid'"),
    "infinity": (lambda c: c["metrics"].update(sfid=float("inf")), "sfid is inf"),
    "a number beyond floats": (lambda c: c["metrics"].update(sfid=10**400), "sfid is too large"),
    "an interval upside down": (lambda c: c["intervals"].update(fid=[3, 1]), "the interval of fid is"),
    "half an interval": (lambda c: c["intervals"].update(fid=[3]), "the interval of fid is"),
    "an unknown status": (lambda c: c.update(status="fine"), "known are ok, failed, unsupported, missing"),
    "a status that tables make": (lambda c: c.update(status="refused"), "has the status 'refused'"),
    "ok and an error": (lambda c: c.update(error="x"), "the status 'ok' and an error"),
    "no run": (lambda c: c["run"].pop("label"), "which run it is of"),
}


@pytest.mark.parametrize("what", UNTRUE)
def test_what_cannot_be_true_is_refused(what: str) -> None:
    edit, words = UNTRUE[what]
    bad = content()
    edit(bad)
    with pytest.raises(Refused) as caught:
        MetricsRecord.from_json(bad)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_record_is_one_line(what: str) -> None:
    edit, words = BROKEN[what]
    bad = content()
    edit(bad)
    with pytest.raises(DataError) as caught:
        MetricsRecord.from_json(bad)
    assert words in str(caught.value) and "\n" not in str(caught.value) and not isinstance(caught.value, Refused)


def test_a_run_made_otherwise_than_its_setting_says_is_told() -> None:
    assert mismatch(MetricsRecord.from_json(content()), SETTING, 0) == ""
    balanced = MetricsRecord.from_json(content(labels="balanced"))
    assert "labels balanced instead of random" in mismatch(balanced, SETTING, 0)
    assert mismatch(balanced, SETTING | {"labels": "balanced"}, 0) == ""
    assert "labels random instead of balanced" in mismatch(
        MetricsRecord.from_json(content()), SETTING | {"labels": "balanced"}, 0
    )
    other = mismatch(MetricsRecord.from_json(content(steps=50, cfg_scale=7.5)), SETTING, 9)
    for words in ("steps 50 instead of 20", "cfg_scale 7.5 instead of 1.5", "seed 0 instead of 9"):
        assert words in other
    clips = content(sampler="rectified flow", shift=2.5, prompts={"count": 6})
    clips["metrics"] = {}
    assert mismatch(MetricsRecord.from_json(clips), FLOW, 0) == "", (
        "one sampler, as a profile and as a protocol spell it"
    )
    assert "shift 2.5 instead of 3" in mismatch(MetricsRecord.from_json(clips), FLOW | {"shift": 3}, 0)


def test_bits_are_what_something_can_have() -> None:
    assert [split_bits(f"w{w}a{a}") for w in BITS for a in BITS] == [(w, a) for w in BITS for a in BITS]
    for wrong in ("w0a8", "w4a0", "w1a8", "w9a8", "w4a32", "w04a8", "W4A8", "w4a8 ", "w4", "", None, 4):
        with pytest.raises(ConfigError, match="2 to 8, or 16"):
            split_bits(wrong)  # type: ignore[arg-type]


def test_a_reference_of_ready_statistics_leaves_metrics_without_a_value() -> None:
    stored = content()
    stored["metrics"] |= {"sfid": None, "precision": None, "recall": None}
    kept = MetricsRecord.from_json(stored).metrics
    assert kept["precision"] is None and kept["sfid"] is None and kept["fid"] == 2.0
