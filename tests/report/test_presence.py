"""Commands that render results say in one line that there are none, and write nothing."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import DataError
from qdit.core.files import write_json
from qdit.report.data.presence import require_results

COMMANDS = [["table", "table2"], ["leaderboard"], ["report"], ["figures"], ["claims"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("exists", [False, True])
def test_without_any_result_nothing_is_written(command: list[str], exists: bool, tmp_path: Path) -> None:
    results = tmp_path / "results"
    if exists:
        (results / "tables").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    called = CliRunner().invoke(app, [*command, "--results", str(results)])
    assert isinstance(called.exception, DataError)
    line = str(called.exception)
    assert line.startswith(f"{results}: ") and "snakemake --cores all" in line and "\n" not in line
    assert ("runs/*/*/*/*/metrics.json" in line) == exists
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["runs/s/natural/rtn/w4a8-common/metrics.json", "search/s/a.json"])
def test_one_result_is_enough(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / name, {"error": "unsupported: 3 bits"})
    require_results(tmp_path)
    called = CliRunner().invoke(app, ["table", "table2", "--results", str(tmp_path)])
    assert called.exit_code == 0 and (tmp_path / "tables" / "table2.csv").is_file()
