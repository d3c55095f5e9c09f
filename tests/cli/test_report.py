"""`qdit claims`, `leaderboard` and `compare`: what they print and write, on results that are not there yet as well."""

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qdit.cli import main as cli
from qdit.core.files import write_json
from qdit.core.intervals import FILE
from qdit.workflow.profile import load_profile, runs_of

Printed = Callable[..., str]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Printed:
    """What `qdit` prints, run in this process in an empty folder; it must end with `code`."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
        monkeypatch.delenv(cli.DEBUG, raising=False)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert stopped.value.code == code, err
        return out if code == 0 else err

    return call


def test_claims_of_a_run_that_has_not_begun(printed: Printed, tmp_path: Path) -> None:
    text = printed("claims", "--out", "claims.html")
    assert "lowest-fid-w4a8: “" in text and "missing: no metrics.json" in text
    assert text.splitlines()[-3:] == ["claims.html", "claims.csv", "claims.md"]
    with (tmp_path / "claims.csv").open(encoding="utf-8", newline="") as file:
        verdicts = {(row["id"], row["evaluated_on"]): row["verdict"] for row in csv.DictReader(file)}
    assert verdicts["lowest-fid-w4a8", "printed"] == "holds"
    assert {word for (_, source), word in verdicts.items() if source == "mini"} == {"cannot be told", "not checked"}


def one_failed_run(results: Path) -> None:
    run = runs_of(load_profile("mini"), "table2")[1]
    write_json(results / "runs" / run.path / "metrics.json", {"error": "unsupported: 3 bits"})


def test_leaderboard_of_a_run_that_has_hardly_begun(printed: Printed, tmp_path: Path) -> None:
    assert printed("leaderboard", "--results", "mine", code=2).startswith("qdit: error: mine: no such folder")
    one_failed_run(tmp_path / "mine")
    assert printed("leaderboard", "--results", "mine").splitlines() == [
        f"mine/leaderboard.{suffix}" for suffix in ("csv", "md", "html")
    ]
    with (tmp_path / "mine" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50 and {row["status"] for row in rows} == {"missing: no metrics.json", "unsupported: 3 bits"}


@pytest.mark.ci
def test_report_of_a_run_that_has_hardly_begun(printed: Printed, tmp_path: Path) -> None:
    assert printed("report", "--results", "mine", code=2).startswith("qdit: error: mine: no such folder")
    one_failed_run(tmp_path / "mine")
    assert printed("report", "--results", "mine").splitlines() == ["mine/index.html"]
    assert "This run is partial: 0 of" in (tmp_path / "mine" / "index.html").read_text(encoding="utf-8")
    assert printed("report", "--results", "mine", "--out", "mail.html").splitlines() == ["mail.html"]


def test_compare_writes_its_table_and_refuses_in_one_line(printed: Printed, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "runs").mkdir(parents=True)
    assert "0 runs in both" in printed("compare", "a", "b", "--out", "gap.csv")
    assert (tmp_path / "gap.csv").read_text(encoding="utf-8").startswith("run,metric,a,b,difference,low,high,verdict")
    shutil.rmtree(tmp_path / "b" / "runs")
    error = printed("compare", "a", "b", code=2)
    assert error.startswith("qdit: error: b: has neither metrics.json") and error.count("\n") == 1


def test_the_results_of_a_profile_are_looked_for_in_its_own_folder(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These commands looked into results/mini, whatever profile was named."""
    (tmp_path / "mine.yaml").write_text("profile: mine\n", encoding="utf-8")
    one_failed_run(tmp_path / "results" / "mini")
    mine = ("--profile", "mine.yaml")
    assert printed("times", *mine, code=2).startswith("qdit: error: results/mine: no benchmark files of runs")
    assert printed("video", "mp4", "table3", "out", *mine, code=2).startswith(
        "qdit: error: results/mine: no such folder"
    )
    folders: list[Path] = []

    def explained(profile: object, table: str, row: str, results: Path) -> tuple[str, bool]:
        folders.append(results)
        return "", True

    monkeypatch.setattr("qdit.workflow.explain.explain_text", explained)
    printed("explain", "table2", "1", *mine)
    printed("explain", "table2", "1", *mine, "--results", "results/other")
    assert folders == [Path("results/mine"), Path("results/other")]
    assert "results/mini/profile.json: no such file" in printed("explain", "table2", "1", code=2)


def test_the_name_of_the_file_beside_the_metrics_is_the_one_the_workflow_declares(repository: Path) -> None:
    rules = (repository / "rules" / "evaluate.smk").read_text(encoding="utf-8")
    assert rules.count(f'/{FILE}"') == 2
