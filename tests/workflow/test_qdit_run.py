"""`qdit run`: which snakemake call it makes, and what it refuses."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from qdit.cli.run import run as run_command
from qdit.core.errors import ConfigError, DataError
from qdit.core.files import write_json
from qdit.core.repository import ROOT
from qdit.workflow.commands import Commands
from qdit.workflow.profile import default_tables, load_profile, runs_of, search_of
from qdit.workflow.progress import SECONDS
from qdit.workflow.run import (
    call,
    plan_text,
    printed,
    require_room_for,
    row_targets,
    rows_of,
    snakemake_command,
)
from qdit.workflow.run_time import seconds_of
from qdit.workflow.targets import OTHER_TARGETS, ab_runs, check_tables, check_targets
from tests.preloaded import python
from tests.workflow.checkout import Checkout


def test_in_the_checkout_it_is_what_the_documentation_says() -> None:
    assert printed(snakemake_command(["table2"], ["mini"], cores="all", folder=ROOT)) == "snakemake --cores all table2"


def test_elsewhere_it_names_the_snakefile_and_its_options(tmp_path: Path) -> None:
    words = snakemake_command([], ["mini", "my.yaml"], cores="2", folder=tmp_path)
    assert words[words.index("--snakefile") + 1] == str(ROOT / "Snakefile")
    assert words[words.index("--workflow-profile") + 1] == str(ROOT / "profiles" / "default")
    assert words[words.index("--configfile") + 1 :] == [str(ROOT / "config" / "mini.yaml"), "my.yaml"]


def test_a_name_that_is_no_table_is_one_line() -> None:
    profile = load_profile("mini")
    assert check_tables(profile, ["table2"]) == ["table2"] and check_tables(profile, []) == default_tables(profile)
    for name, close in (("tabel2", "table2"), ("ab", "qc")):
        with pytest.raises(ConfigError, match=f"table {name!r}: allowed are table1, ") as raised:
            check_tables(profile, [name])
        assert "\n" not in str(raised.value) and (close in str(raised.value))


def test_targets_are_tables_and_what_the_workflow_makes_besides() -> None:
    profile = load_profile("mini")
    defaults = default_tables(profile)
    assert check_targets(profile, []) == check_targets(profile, ["all"]) == defaults
    assert check_targets(profile, ["integer", "ab", "training"]) == ["integer"]
    assert check_targets(profile, ["table2", "all"])[0] == "table2" and "ab" not in profile["tables"]
    with pytest.raises(ConfigError, match="target 'trainning': .*table2, .*ab, claims_rows, .*did you mean 'training'"):
        check_targets(profile, ["trainning"])


def test_every_target_is_a_rule_of_the_workflow_and_in_the_help(plain: Checkout) -> None:
    planned = {job.rule for job in plain.plan(*OTHER_TARGETS)}
    assert planned >= set(OTHER_TARGETS)
    (argument,) = get_type_hints(run_command, include_extras=True)["tables"].__metadata__
    names = argument.help.removeprefix("Tables to make, or other targets: ").split(".")[0].split(", ")
    assert set(names) == set(OTHER_TARGETS)


def test_the_page_for_comparing_images_shows_table_2_and_controls() -> None:
    profile = load_profile("mini")
    runs, rows = ab_runs(profile), runs_of(profile, "table2")
    controls = runs[len(rows) :]
    assert runs[: len(rows)] == rows and controls and {run.bits for run in controls} == {"w2a2"}
    assert {(run.setting, run.form) for run in controls} <= {(run.setting, run.form) for run in rows}


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
    with pytest.raises(ConfigError, match=r"--row 'dit/w6a8': no row of table2 has these words"):
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


def test_a_finished_search_takes_no_time(tmp_path: Path) -> None:
    profile = load_profile("mini")
    runs = runs_of(profile, "table6")
    before = seconds_of(profile, runs, tmp_path)
    searches = {search for run in runs if (search := search_of(profile, run))}
    for search in searches:
        write_json(Commands(profile, tmp_path).search_file(search), {})
    assert searches and seconds_of(profile, runs, tmp_path) == before - len(searches) * SECONDS["search"]


def test_a_disk_that_is_too_small_is_one_line_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("mini")
    rows = rows_of(profile, ["table5"])
    require_room_for(profile, rows, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 50_000_000})())
    with pytest.raises(DataError, match=r"50 MB are free, 3 rows and their pages need .* MB; make room"):
        require_room_for(profile, rows, tmp_path)


COUNTING = """
import os, signal, sys, time
count = 0
def counted(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, counted)
open(sys.argv[1], "w").close()
until = time.monotonic() + 60
while not count and time.monotonic() < until:
    time.sleep(0.02)
time.sleep(0.3)
sys.exit(10 + count)
"""
"""A program whose exit code is 10 plus the number of interrupts that it gets until 0.3 seconds after the first."""
CALLING = "import sys; from qdit.workflow.run import call; sys.exit(call([sys.executable, '-c', *sys.argv[1:]]))"
"""What `qdit run` does with the command of Snakemake, with another program."""


HEEDING = (
    "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    " signal.signal(signal.SIGINT, signal.default_int_handler); "
)
"""Signals count, also where the tests themselves run under nohup or in the background of a shell."""
OWN_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "


def call_of_counting(started: Path, before: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """A process that runs the program as `qdit run` runs Snakemake; the program has started."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDING + before + CALLING, COUNTING, str(started)], cwd=ROOT, **options
    )
    until = time.monotonic() + 60
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert started.exists()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_qdit_run_alone_interrupts_the_command_once(tmp_path: Path, number: signal.Signals) -> None:
    process = call_of_counting(tmp_path / "started")
    process.send_signal(number)
    assert process.wait(timeout=60) == 11


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    ignoring = "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    process = call_of_counting(tmp_path / "started", ignoring)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 11


def test_a_signal_to_the_whole_group_interrupts_the_command_once(tmp_path: Path) -> None:
    process = call_of_counting(tmp_path / "started", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 11


def test_ctrl_c_in_a_terminal_interrupts_the_command_once(tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()
    process = call_of_counting(tmp_path / "started", OWN_TERMINAL, stdin=terminal, start_new_session=True)
    os.write(keyboard, b"\x03")
    assert process.wait(timeout=60) == 11
    os.close(keyboard)
    os.close(terminal)


def test_a_command_that_a_signal_ends_has_the_exit_code_of_a_shell() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert call([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]) == 143
    assert call([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_template_that_snakemake_would_execute_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"__use_yte__: true\nprofile: ?open({str(mark)!r}, 'w').name\n", encoding="utf-8")
    for command in (["validate", str(overlay)], ["run", "table5", "--profile", "mini", "--profile", str(overlay)]):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = python(["-m", "qdit", *command], tmp_path, environment=environment, timeout=120)
        assert done.returncode == 2 and "__use_yte__" in done.stderr and done.stderr.count("\n") == 1
    assert not mark.exists() and not (tmp_path / "results").exists()
