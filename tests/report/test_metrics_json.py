"""A run's row: everything of a good metrics.json, a reason for every bad one, never a crash."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.core.run import Run, split_bits
from qdit.report.data.metrics_json import read_run
from qdit.report.render.notes import notes
from qdit.report.render.text import csv_text, latex_text, markdown_text
from qdit.report.tables.kinds import load_table

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


def test_bits_are_parsed_or_refused() -> None:
    assert split_bits("w16a8") == (16, 8)
    for wrong in ("w0a8", "W4A8", "4/8", "w4a8 "):
        with pytest.raises(ConfigError, match="w4a8"):
            split_bits(wrong)
