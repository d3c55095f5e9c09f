"""`qdit run`: which snakemake call it makes, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.repository import ROOT
from qdit.workflow.profile import load_profile, runs_of
from qdit.workflow.run import (
    call,
    check_targets,
    plan_text,
    printed,
    require_room_for,
    row_targets,
    rows_of,
    snakemake_command,
)
from qdit.workflow.run_time import seconds_of


def test_in_the_checkout_it_is_what_the_documentation_says() -> None:
    assert printed(snakemake_command(["table2"], ["mini"], cores="all", folder=ROOT)) == "snakemake --cores all table2"


def test_elsewhere_it_names_the_snakefile_and_its_options(tmp_path: Path) -> None:
    words = snakemake_command([], ["mini", "my.yaml"], cores="2", folder=tmp_path)
    assert words[words.index("--snakefile") + 1] == str(ROOT / "Snakefile")
    assert words[words.index("--workflow-profile") + 1] == str(ROOT / "profiles" / "default")
    assert words[words.index("--configfile") + 1 :] == [str(ROOT / "config" / "mini.yaml"), "my.yaml"]


def test_a_name_that_is_no_table_is_one_line() -> None:
    profile = load_profile("mini")
    assert check_targets(profile, ["table2"]) == ["table2"]
    with pytest.raises(ConfigError, match="table 'tabel2': allowed are table1, .*did you mean 'table2'"):
        check_targets(profile, ["tabel2"])


def test_the_plan_counts_rows_and_what_is_measured(tmp_path: Path) -> None:
    profile = load_profile("mini")
    first = runs_of(profile, "table5")[0]
    (tmp_path / "runs" / first.path).mkdir(parents=True)
    (tmp_path / "runs" / first.path / "metrics.json").write_text("{}")
    text = plan_text(profile, rows_of(profile, ["table5"]), tmp_path, cores=2)
    lines, count = text.splitlines(), len(runs_of(profile, "table5"))
    assert lines[1].split()[:4] == ["table5", str(count), "1", str(count - 1)]
    assert lines[1].split()[5] == "min" and lines[1].endswith(" MB")
    assert [line.strip() for line in lines[-count + 1 :]] == [run.path for run in runs_of(profile, "table5")[1:]]
    assert first.path not in text


def test_rows_by_name_bring_full_precision_along(tmp_path: Path) -> None:
    profile = load_profile("mini")
    rows = rows_of(profile, ["table2", "table5"], ["q-dit/w6a8"])
    assert list(rows) == ["table2"] and {run.label for run in rows["table2"]} == {"fp", "q-dit"}
    assert {run.bits for run in rows["table2"] if run.label == "q-dit"} == {"w6a8"}
    assert row_targets(rows["table2"], tmp_path)[0] == str(rows["table2"][0].folder(tmp_path) / "metrics.json")
    with pytest.raises(ConfigError, match=r"--row 'dit/w6a8': no row of table2 has it"):
        rows_of(profile, ["table2"], ["dit/w6a8"])


def test_times_that_were_measured_go_before_guesses(tmp_path: Path) -> None:
    profile = load_profile("mini")
    runs = runs_of(profile, "table5")
    guessed = seconds_of(profile, runs, tmp_path)
    logs = runs[0].folder(tmp_path) / "logs"
    logs.mkdir(parents=True)
    (logs / "sample-000.json").write_text('{"seconds": 1000}', encoding="utf-8")
    assert seconds_of(profile, runs, tmp_path) > guessed + 2000
    (logs / "sample-000.json").write_text("damaged", encoding="utf-8")
    assert seconds_of(profile, runs, tmp_path) == guessed


def test_a_disk_that_is_too_small_is_one_line_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("mini")
    rows = rows_of(profile, ["table5"])
    require_room_for(profile, rows, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 50_000_000})())
    with pytest.raises(DataError, match=r"50 MB are free, 3 rows and their pages need .* MB; make room"):
        require_room_for(profile, rows, tmp_path)


def test_ctrl_c_is_left_to_the_command(tmp_path: Path) -> None:
    program = "import os, signal; os.kill(os.getppid(), signal.SIGINT); print('goes on'); raise SystemExit(3)"
    assert call([sys.executable, "-c", program]) == 3
    assert call([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]) == 143


def test_a_template_that_snakemake_would_execute_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"__use_yte__: true\nprofile: ?open({str(mark)!r}, 'w').name\n", encoding="utf-8")
    for command in (["validate", str(overlay)], ["run", "table5", "--profile", "mini", "--profile", str(overlay)]):
        call = [sys.executable, "-m", "qdit", *command]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2 and "__use_yte__" in done.stderr and done.stderr.count("\n") == 1
    assert not mark.exists() and not (tmp_path / "results").exists()
