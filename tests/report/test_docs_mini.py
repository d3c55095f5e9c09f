"""docs/mini comes from one finished run of one commit, and the README's numbers from it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.ranking import ranking_metric
from qdit.report.claims.report import load_report
from qdit.report.claims.written import write_report
from qdit.report.pages.build import build_table
from qdit.report.pages.claims_page import claims_markdown, claims_page
from qdit.report.pages.docs_mini import (
    BEGIN,
    END,
    INDEX_LIMIT,
    fill,
    kept_tables,
    readme_table,
    require_clean,
    require_finished,
)
from qdit.report.pages.leaderboard import build_leaderboard
from tests.report.conftest import PLAIN, all_keys, make_profile, record, write_record

ROOT = Path(__file__).parents[2]
CSV = ROOT / "docs" / "mini" / "table2.csv"


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole_run(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with pages, times and the list of calls, made once."""
    profile = make_profile()
    results = Path(shutil.copytree(template, tmp_path_factory.mktemp("finished") / "results" / "mini"))
    for name in profile["tables"]:
        build_table(profile, name, results, results / "tables" / name)
    build_leaderboard(profile, results)
    report = load_report(profile, results)
    write_report(report, claims_page(report), claims_markdown(report), results / "claims.html")
    (results / "index.html").write_text("<p>all</p>", encoding="utf-8")
    for key in all_keys(profile):
        logs = key.folder(results) / "logs"
        logs.mkdir(parents=True)
        for step in ("quantize", "sample-000"):
            (logs / f"{step}.json").write_text('{"seconds": 2}', encoding="utf-8")
    (results / "logs").mkdir()
    calls = [{"jobs": 12, "failed": 0, "seconds": 90.0, "stopped": False}]
    (results / "logs" / "calls.json").write_text(json.dumps(calls), encoding="utf-8")
    return results


@pytest.fixture
def finished(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(whole_run, tmp_path / "results" / "mini"))


def test_everything_of_the_run_is_there_and_nothing_of_an_older_one(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("old.html", "run.json"):
        (docs / name).touch()
    written = fill(profile, finished, docs, readme, commit="abc")
    tables = {f"{name}.{suffix}" for name in profile["tables"] for suffix in ("html", "md", "csv")}
    others = {f"{name}.{suffix}" for name in ("claims", "leaderboard") for suffix in ("html", "csv", "md")}
    assert {path.name for path in docs.iterdir()} == tables | others | {"index.html", "times.md", "run.json"}
    assert set(written) == {*docs.iterdir(), readme}
    times = (docs / "times.md").read_text(encoding="utf-8")
    assert "Commit abc on " in times and "- 12 jobs in 1.5 minutes" in times and "| table2 |" in times
    assert json.loads((docs / "run.json").read_text(encoding="utf-8"))["rows"] == len(all_keys(profile))


def test_an_opt_in_table_is_kept_if_the_run_made_it(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    name = next(name for name in reversed(profile["tables"]) if name != "table2")
    tables = profile["tables"] | {name: profile["tables"][name] | {"opt_in": True}}
    docs, opting = tmp_path / "docs", dict(profile) | {"tables": tables}
    fill(opting, finished, docs, readme, commit="abc")
    assert (docs / f"{name}.md").is_file() and kept_tables(opting, finished) == list(tables)
    (finished / "tables" / f"{name}.html").unlink()
    fill(opting, finished, docs, readme, commit="abc")
    assert not (docs / f"{name}.md").exists() and name not in kept_tables(opting, finished)


def test_claims_and_leaderboard_can_be_read_in_a_repository(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    fill(profile, finished, tmp_path / "docs", readme, commit="abc")
    board = (tmp_path / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    part = board.partition(f"## {PLAIN}, natural, common, W4A8\n\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split("|")[1:3] for line in part[2:]] == sorted([line.split("|")[1:3] for line in part[2:]])
    assert "Q-DiT" in part[2] and "45.23" in part[2] and "0.0300" in part[2]
    claims = (tmp_path / "docs" / "claims.md").read_text(encoding="utf-8")
    assert "\n- 50 of the 61 claims can be checked; the others are only quoted." in claims
    rows = [line for line in claims.splitlines() if line.startswith("| q-dit")]
    assert rows and len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_ranks_that_chance_leaves_open_are_printed_as_ranges(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    board = finished / "leaderboard.csv"
    frame = pd.read_csv(board, dtype={"rank": str})
    frame.loc[frame["rank"] == "1", "rank"] = "1–2"
    frame.to_csv(board, index=False)
    fill(profile, finished, tmp_path / "docs", readme, commit="abc")
    rows = (tmp_path / "docs" / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    assert {row.split("|")[1].strip() for row in rows if "Q-DiT" in row} >= {"1–2"}


def test_a_run_that_cannot_be_shown_leaves_the_old_pages(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("old.html", "run.json"):
        (docs / name).touch()
    (finished / "leaderboard.csv").write_text("setting\nx\n", encoding="utf-8")
    with pytest.raises(KeyError):
        fill(profile, finished, docs, readme, commit="abc")
    assert {path.name for path in docs.iterdir()} == {"old.html", "run.json"} and "old\n" in readme.read_text(
        encoding="utf-8"
    )


def test_files_that_this_command_did_not_write_are_never_removed(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    (docs / "mini").mkdir(parents=True)
    (docs / "mini" / "run.json").write_text("{}", encoding="utf-8")
    (docs / "search.md").write_text("written by hand", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"docs: holds search\.md and no run\.json"):
        fill(profile, finished, docs, readme, commit="abc")
    assert (docs / "search.md").read_text(encoding="utf-8") == "written by hand"
    assert "old\n" in readme.read_text(encoding="utf-8")


def test_the_readmes_table_is_the_csvs(finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path) -> None:
    fill(profile, finished, tmp_path / "docs", readme, commit="abc")
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    lines = text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0].splitlines()
    assert lines[0] == "| PSNR-FP (dB) | RTN | G4W+P4A | Q-DiT |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| W6A8", "| W4A8", "| W4A4"]
    assert lines[3] == "| W4A8 | 35.23 | 38.24 | 45.23 |"
    once = readme.read_bytes()
    fill(profile, finished, tmp_path / "docs", readme, commit="abc")
    assert readme.read_bytes() == once


def test_a_large_index_stays_out(finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path) -> None:
    (finished / "index.html").write_bytes(b" " * (INDEX_LIMIT + 1))
    fill(profile, finished, tmp_path / "docs", readme, commit="abc")
    assert not (tmp_path / "docs" / "index.html").exists()


def test_an_incomplete_or_mixed_run_is_refused_and_nothing_is_written(
    finished: Path, profile: dict[str, Any], readme: Path, tmp_path: Path
) -> None:
    key = next(key for key in all_keys(profile) if key.label == "q-dit")
    for problem, change in (
        ("was made by different code", {"code": {"quantize": "1" * 64, "sample": "2" * 64, "evaluate": "4" * 64}}),
        ("finish the run first", None),
    ):
        if change is None:
            (key.folder(finished) / "metrics.json").unlink()
        else:
            write_record(finished, key, record(key, profile) | change)
        with pytest.raises(DataError, match=problem):
            fill(profile, finished, tmp_path / "docs", readme, commit="abc")
        assert not (tmp_path / "docs").exists()


def test_a_readme_without_marks_is_refused(finished: Path, profile: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("text", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no lines"):
        fill(profile, finished, tmp_path / "docs", tmp_path / "README.md", commit="abc")


def test_a_checkout_with_other_changes_is_refused(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "code.py").touch()
    with pytest.raises(DataError, match="no git checkout"):
        require_clean(tmp_path, ())
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "README.md").write_text("new", encoding="utf-8")
    assert len(require_clean(tmp_path, ("README.md",))) == 12
    (tmp_path / "code.py").write_text("changed", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 files differ from the commit, first code\.py"):
        require_clean(tmp_path, ("README.md",))


@pytest.mark.parametrize(("words", "good"), [("Nothing to be done (all is there).", True), ("rule sample:", False)])
def test_jobs_that_are_left_to_do_are_refused(tmp_path: Path, words: str, good: bool) -> None:
    program = ["python3", "-c", f"print({words!r})"]
    if good:
        require_finished(program, tmp_path)
    else:
        with pytest.raises(DataError, match="jobs of the workflow are left to do"):
            require_finished(program, tmp_path)


def test_the_readme_has_its_marks_around_a_table_of_the_ranking_metric() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.partition(f"{BEGIN}\n")[2].partition(END)[0].startswith(f"| {ranking_metric().axis_title} | ")


@pytest.mark.skipif(not CSV.is_file(), reason="docs/mini was not yet made by qdit docs-mini")
def test_the_readmes_numbers_are_those_of_docs_mini() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0] == readme_table(CSV)
    assert len(pd.read_csv(CSV)) > 0
