"""The time of tables and methods is that of the benchmark files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qdit.core.errors import DataError
from qdit.core.run import Run
from qdit.report.data.times import times_text
from qdit.workflow.profile import load_profile, runs_of

MINI = load_profile("mini")


def benchmark(folder: Path, name: str, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"seconds": seconds, "peak_mib": 10}))


def test_jobs_are_added_up_by_table_and_shared_runs_count_once(tmp_path: Path) -> None:
    run = runs_of(MINI, "table5")[0]
    folder = tmp_path / "runs" / run.path / "logs"
    benchmark(folder, "quantize", 4)
    benchmark(folder, "sample-000", 10)
    benchmark(folder, "sample-001", 7)
    lines = times_text(MINI, tmp_path).splitlines()
    assert "| table5 | 1 | 4 | 17 |" in lines and "| table2 | 1 | 4 | 17 |" in lines
    assert "| all, shared runs once | 1 | 4 | 17 |" in lines
    assert "| fp | 1 | 4.0 | 17.0 |" in lines


def test_replicates_count_as_runs_of_their_table(tmp_path: Path) -> None:
    profile = load_profile("mini", "config/mini-replicates.yaml")
    row = Run("digits-cfg1.0-s20", "natural", "ptq4dm", "w4a8", "common")
    for number in range(3):
        folder = tmp_path / "runs" / replace(row, replicate=number).path / "logs"
        benchmark(folder, "quantize", 4 + number)
        benchmark(folder, "sample-000", 10)
    lines = times_text(profile, tmp_path).splitlines()
    assert "| table2 | 3 | 15 | 30 |" in lines and "| ptq4dm | 3 | 5.0 | 10.0 |" in lines
    assert "| table2 | 1 | 4 | 10 |" in times_text(MINI, tmp_path).splitlines()


def test_a_run_that_was_not_sampled_is_left_out_and_none_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / runs_of(MINI, "table5")[0].path / "logs"
    with pytest.raises(DataError, match="run the workflow first"):
        times_text(MINI, tmp_path)
    benchmark(folder, "quantize", 4)
    with pytest.raises(DataError, match="no benchmark files"):
        times_text(MINI, tmp_path)
    (folder / "sample-000.json").write_text("nonsense\n")
    with pytest.raises(DataError, match="not a benchmark file"):
        times_text(MINI, tmp_path)
