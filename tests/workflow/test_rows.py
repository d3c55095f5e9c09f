"""The rows without numbers at the end of a run: which, why, where the log is, and the exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import DataError
from qdit.core.files import read_json, write_json, write_text
from qdit.workflow.profile import load_profile, runs_of
from qdit.workflow.rows import failed_rows, summary

TABLES = ["table2"]


def record(results: Path, index: int, error: str | None, **logs: str) -> str:
    run = runs_of(load_profile("mini"), "table2")[index]
    write_json(results / "runs" / run.path / "metrics.json", {"error": error} if error else {"metrics": {}})
    for name, text in logs.items():
        write_text(results / "runs" / run.path / "logs" / f"{name.replace('_', '-')}.log", text)
    return run.path


def check(results: Path, *arguments: object) -> tuple[int, str]:
    called = CliRunner().invoke(app, ["check-rows", "table2", "--results", str(results), *map(str, arguments)])
    return called.exit_code, called.output


def test_measured_and_missing_rows_are_no_failures(tmp_path: Path) -> None:
    record(tmp_path, 0, None)
    runs = len(set(runs_of(load_profile("mini"), "table2")))
    line = f"Rows that are not measured yet: {runs - 1} of {runs}\n"
    assert check(tmp_path, "--out", tmp_path / "rows.json") == (0, line)
    assert read_json(tmp_path / "rows.json") == {"unsupported": {}}


def test_unsupported_rows_are_listed_and_no_error(tmp_path: Path) -> None:
    said = "qdit: recorded: unsupported: 3 bits\n"
    path = record(tmp_path, 1, "unsupported: 3 bits", quantize=said, sample_000=said)
    code, out = check(tmp_path, "--out", tmp_path / "rows.json")
    assert code == 0
    log = tmp_path / "runs" / path / "logs" / "quantize.log"
    assert out.splitlines()[:-1] == [
        "Rows that their method does not support (1):",
        f"  {path}: unsupported: 3 bits (log: {log})",
    ]
    assert read_json(tmp_path / "rows.json") == {"unsupported": {path: "unsupported: 3 bits"}}


def test_one_failed_row_makes_the_exit_code(tmp_path: Path) -> None:
    record(tmp_path, 1, "unsupported: 3 bits")
    text = "failed in sample: sampled images hold NaN"
    path = record(tmp_path, 2, text, quantize="fine\n", sample_000="fine\n", sample_001=f"qdit: recorded: {text}\n")
    code, out = check(tmp_path, "--out", tmp_path / "rows.json")
    assert code == 1 and not (tmp_path / "rows.json").exists()
    assert f"  {path}: {text} (log: {tmp_path}/runs/{path}/logs/sample-001.log)" in out
    assert out.index("method failed (1)") < out.index("does not support (1)")
    rows = failed_rows(load_profile("mini"), tmp_path, TABLES)
    assert [row.is_allowed for row in rows] == [True, False] and len(summary(rows)) == 4


@pytest.mark.parametrize("text", ["full precision: failed in sample: NaN", "something nobody foresaw"])
def test_other_errors_fail_too(tmp_path: Path, text: str) -> None:
    record(tmp_path, 3, text)
    assert check(tmp_path)[0] == 1


def test_a_record_that_is_no_object_is_one_line(tmp_path: Path) -> None:
    path = record(tmp_path, 0, None)
    write_json(tmp_path / "runs" / path / "metrics.json", [])
    with pytest.raises(DataError, match="no JSON object"):
        failed_rows(load_profile("mini"), tmp_path, TABLES)
