"""A run's row: everything of a good metrics.json, a reason for every bad one, never a crash."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qdit.core.metrics_record import Status
from qdit.core.run import Run
from qdit.report.data.metrics_json import read_run
from qdit.report.render.notes import notes
from qdit.report.render.text import csv_text, latex_text, markdown_text
from qdit.report.tables.kinds import load_table
from tests.report.conftest import change_protocol

KEY = Run("digits-cfg1.0-s20", "natural", "q-dit", "w4a8", "common")


def test_row_of_a_measured_run(results: Path) -> None:
    row = read_run(results, KEY)
    assert row["status"] == "ok"
    assert [row[name] for name in ("fid", "fd_fp", "mse_fp")] == pytest.approx([2.03, 0.03, 1e-4])
    assert row["size_mb"] == pytest.approx(4.123 / 4) and row["size_actual_mb"] == 4.5 / 4
    assert (row["sampler"], row["steps"], row["evaluator"], row["backend"]) == ("ddim", 20, "digit-classifier", "torch")
    assert row["packages"] == "numpy=2.3.5 torch=2.15.0"
    assert row["calibration_sha256"] == "trajectory=" + "c" * 64


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda r: r["metrics"].update(fid=None), "no number 'fid'"),
        (lambda r: r["metrics"].update(fid="2.0"), "no number 'fid'"),
        (lambda r: r["metrics"].update(sfid=float("nan")), "sfid is nan"),
        (lambda r: r.pop("metrics"), "lacks 'metrics'"),
        (lambda r: r["run"].update(weight_bits=6), "another run (weight_bits 6)"),
        (
            lambda r: r.update(error="W4A8 is not supported:\n per-channel only"),
            "W4A8 is not supported: per-channel only",
        ),
    ],
)
def test_unusable_metrics_say_why(change_record: Callable, results: Path, edit: Callable, why: str) -> None:
    change_record(KEY, edit)
    row = read_run(results, KEY)
    assert row["status"].startswith("missing: ") and why in row["status"]
    assert row.get("fid") is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("unsupported: W3A3 is not made", "unsupported: W3A3 is not made"),
        ("failed in quantize: no\n memory", "failed in quantize: no memory"),
        ("full precision: failed in sample: NaN", "missing: full precision: failed in sample: NaN"),
        ("", "missing: "),
    ],
)
def test_an_error_keeps_its_own_word(change_record: Callable, results: Path, error: str, status: str) -> None:
    change_record(KEY, lambda record: record.update(error=error))
    assert read_run(results, KEY)["status"] == status


def test_absent_and_torn_files_say_why(results: Path) -> None:
    path = KEY.folder(results) / "metrics.json"
    path.write_text(path.read_text()[:100])
    assert read_run(results, KEY)["status"] == "missing: metrics.json is not readable JSON"
    path.unlink()
    assert read_run(results, KEY)["status"] == "missing: no metrics.json"


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place in a JSON object."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, name)
        yield from places(inner, (*path, name))


def test_no_damage_to_a_record_can_crash_a_table(results: Path, profile: dict[str, Any]) -> None:
    """Every place of a metrics.json, replaced by every kind of junk: the table is built and names the row."""
    profile["tables"] = {"table2": profile["tables"]["table2"] | {"blocks": [profile["tables"]["table2"]["blocks"][2]]}}
    key = Run("digits-cfg1.0-s20", "natural", "q-dit", "w4a4", "common")
    path = key.folder(results) / "metrics.json"
    good = json.loads(path.read_text())
    for place in list(places(good)):
        for junk in (None, "x", [1], {"a": [2]}, float("inf"), True):
            bad = copy.deepcopy(good)
            inner = bad
            for name in place[:-1]:
                inner = inner[name]
            inner[place[-1]] = junk
            path.write_text(json.dumps(bad))
            table = load_table(profile, "table2", results)
            row = table.rows[-1]
            assert row["status"] == "ok" or notes(table).warnings, (place, junk)
            assert csv_text(table) and markdown_text(table) and latex_text(table)


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "steps": (lambda r: change_protocol(r, steps=50), "made with steps 50 instead of 20, which the profile says"),
    "guidance": (lambda r: change_protocol(r, cfg_scale=7.5), "made with cfg_scale 7.5 instead of 1.0"),
    "seed": (lambda r: change_protocol(r, seed=9), "made with seed 9 instead of 0"),
    "sampler": (lambda r: change_protocol(r, sampler="ddpm"), "made with sampler ddpm instead of ddim"),
    "digest": (lambda r: r.update(protocol_sha256="0" * 64), "protocol_sha256 is 000000000000…"),
    "interval": (
        lambda r: r["metrics"].update(fd_fp=1e-9) or r.update(intervals={"fd_fp": [0.01, 0.02]}),
        "fd_fp is 1e-09, outside of its interval 0.01 to 0.02",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_record_that_contradicts_itself_or_the_profile_is_refused(
    change_record: Callable, results: Path, profile: dict[str, Any], what: str
) -> None:
    """The row says why, is among the warnings, and is never bold, whatever number its file holds."""
    edit, why = REFUSALS[what]
    change_record(KEY, edit)
    row = read_run(results, KEY, profile)
    assert row["state"] is Status.REFUSED and row["status"].startswith(f"refused: {why}") and "fd_fp" not in row
    table = load_table(profile, "table2", results)
    lines = [line for line in markdown_text(table).splitlines() if line.startswith("| W4A8") and "Q-DiT" in line]
    assert "**" not in lines[0] and "refused" in lines[0] and any(why in note for note in notes(table).warnings)
    assert csv_text(table) and latex_text(table)
