"""The table of integer arithmetic: every quantized run in both modes, and how far their latents differ."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qdit.core.run import Run
from qdit.report.pages.build import build_table
from qdit.report.tables.kinds import load_table
from qdit.workflow.profile import all_runs, runs_of

PLAIN = "digits-cfg1.0-s20"
METHODS = ["fp", "rtn", "q-dit"]
SIMULATED = Run(PLAIN, "natural", "q-dit", "w4a8", "common")
DIFFERENCE = {"images": 64, "largest": 0.02, "mean": 5e-4}


@pytest.fixture
def with_table(profile: dict[str, Any], results: Path) -> dict[str, Any]:
    """The profile with a table of kind integer, and the integer runs of two methods."""
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w4a8"], "methods": METHODS}
    profile["tables"]["integer"] = {"kind": "integer", "blocks": [block]}
    for label in ("rtn", "q-dit"):
        simulated = replace(SIMULATED, label=label)
        metrics = json.loads((simulated.folder(results) / "metrics.json").read_text())
        metrics |= {"mode": "integer", "backend": "avx2 + onednn", "difference": DIFFERENCE}
        folder = replace(simulated, mode="integer").folder(results)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return profile


def test_every_quantized_run_is_needed_in_both_modes(with_table: dict[str, Any]) -> None:
    runs = runs_of(with_table, "integer")
    assert [(run.label, run.mode) for run in runs] == [
        ("fp", "simulate"),
        *[(label, mode) for label in METHODS[1:] for mode in ("simulate", "integer")],
    ]
    assert runs[-1].path == f"{PLAIN}/natural/q-dit/w4a8-common-integer"
    assert set(runs) <= set(all_runs(with_table))


def test_rows_stand_side_by_side_with_the_difference(with_table: dict[str, Any], results: Path, tmp_path: Path) -> None:
    paths = {path.suffix: path for path in build_table(with_table, "integer", results, tmp_path / "integer")}
    rows = list(csv.DictReader(paths[".csv"].open()))
    assert [row["mode"] for row in rows] == ["simulate", "simulate", "integer", "simulate", "integer"]
    assert {row["status"] for row in rows} == {"ok"}
    assert rows[-1]["backend"] == "avx2 + onednn" and float(rows[-1]["latent_largest"]) == 0.02
    assert rows[-2]["latent_largest"] == ""
    text = paths[".md"].read_text()
    assert "over 64 images" in text and "integer, avx2 + onednn" in text and "2.00e-2" in text and "5.00e-4" in text


def test_a_run_in_the_other_mode_fills_no_row(with_table: dict[str, Any], results: Path) -> None:
    path = replace(SIMULATED, mode="integer").folder(results) / "metrics.json"
    path.write_text(path.read_text().replace('"integer"', '"simulate"'))
    row = load_table(with_table, "integer", results).rows[-1]
    assert row["status"] == "missing: metrics.json is of another run (mode 'simulate')"


def test_what_integers_cannot_do_is_a_row_that_says_why(with_table: dict[str, Any], results: Path) -> None:
    path = replace(SIMULATED, mode="integer").folder(results) / "metrics.json"
    path.write_text(json.dumps({"error": "unsupported: blocks.0.attn.qkv: no"}))
    row = load_table(with_table, "integer", results).rows[-1]
    assert (row["status"], row["detail"]) == ("unsupported: blocks.0.attn.qkv: no", "integer")


def test_quality_control_reads_simulated_runs_only(with_table: dict[str, Any]) -> None:
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w2a2"], "methods": ["fp", "rtn"]}
    with_table["tables"]["qc"] = {"kind": "qc", "blocks": [block]}
    assert {run.mode for run in runs_of(with_table, "qc")} == {"simulate"}
