"""Progress of a run: rows, times, findings, and what is written to a terminal and elsewhere."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from qdit.core.run import Run
from qdit.workflow.profile import load_profile
from qdit.workflow.progress import ROWS, PlannedJob, Progress, planned_jobs
from qdit.workflow.progress_findings import Ranked, finding, learned_labels, names_of, ranked
from qdit.workflow.progress_log import CallRecord, ProgressHandler
from qdit.workflow.progress_text import duration, failure_line, plain_line, table_done_line, table_line
from tests.workflow.graph import GraphJob

LABELS = ("fp", "rtn", "q-dit")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def run_of(label: str) -> Run:
    return Run("s", "natural", label, "w16a16" if label == "fp" else "w4a8", "common")


def metrics_file(root: Path, label: str) -> Path:
    return root / "runs" / run_of(label).path / "metrics.json"


def measure(root: Path, label: str, value: float | None) -> None:
    path = metrics_file(root, label)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metrics": {"psnr_fp": value, "fid": 1.0}}), encoding="utf-8")


@pytest.fixture
def page(tmp_path: Path) -> str:
    return str(tmp_path / "tables" / "table2.html")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(tmp_path: Path, page: str, clock: Clock) -> Progress:
    """Three rows of one table, each a sample and an evaluate job, and the table; full precision is measured already."""
    measure(tmp_path, "fp", None)
    rows = {"table2": [str(metrics_file(tmp_path, label)) for label in LABELS]}
    waits = frozenset({"table2"})
    jobs = []
    for number, label in enumerate(LABELS[1:], 1):
        jobs.append(PlannedJob(10 * number, "sample", label, (f"{label}/shard-000.json",), waits))
        jobs.append(PlannedJob(10 * number + 1, "evaluate", label, (str(metrics_file(tmp_path, label)),), waits))
    jobs.append(PlannedJob(90, "table", "", (page,), waits))
    jobs.append(PlannedJob(91, "index", "", ("index.html",), frozenset()))
    return Progress(rows, {"table2": [page]}, jobs, cores=2, clock=clock)


def finish(progress: Progress, clock: Clock, number: int, seconds: float) -> None:
    progress.start([number])
    clock.now += seconds
    progress.finish(number)


def test_a_row_is_done_when_its_job_is_and_not_while_an_old_file_is_made_again(
    progress: Progress, clock: Clock, tmp_path: Path
) -> None:
    measure(tmp_path, "rtn", 0.5)  # of an earlier run, to be made again
    assert len(progress.measured_rows()) == 1
    finish(progress, clock, 11, 1)
    assert len(progress.measured_rows("table2")) == 2 and not progress.is_done("table2")


def test_measured_jobs_correct_the_guess_of_the_others(progress: Progress, clock: Clock) -> None:
    before = progress.seconds_left()
    finish(progress, clock, 10, 120)  # a guess of 12 seconds: this machine is ten times as slow
    assert progress.seconds_left() > 5 * before
    progress.start([20])
    clock.now += 60
    waiting = progress.seconds_left("table2")
    clock.now += 30
    assert progress.seconds_left("table2") < waiting


def test_a_job_that_runs_longer_than_expected_never_makes_the_time_negative(progress: Progress, clock: Clock) -> None:
    progress.start([10, 20])
    clock.now += 10_000
    assert progress.seconds_left() > 0


def test_a_table_waits_only_for_its_own_jobs(progress: Progress, clock: Clock) -> None:
    for number in (10, 11, 20, 21, 90):
        finish(progress, clock, number, 1)
    assert progress.is_done("table2") and progress.seconds_left("table2") == 0 and progress.seconds_left() > 0


def test_a_failed_job_is_counted_and_needs_no_more_time(progress: Progress) -> None:
    progress.start([10])
    progress.fail(10)
    progress.fail(10)
    assert progress.failures == 1 and "1 jobs failed" in plain_line(progress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "5 s"), (41, "40 s"), (59, "1 min"), (720, "12 min"), (9000, "2.5 h"), (3e5, "3.5 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_finding_compares_rows_of_one_block_at_the_papers_bits(tmp_path: Path) -> None:
    for label, value in (("rtn", 30.0), ("q-dit", 42.5)):
        measure(tmp_path, label, value)
    rows = [row for label in LABELS if (row := ranked(run_of(label), metrics_file(tmp_path, label)))]
    assert finding(rows, {"q-dit": "Q-DiT"}) == "best PSNR-FP at W4A8: Q-DiT 42.50 dB, then rtn 30.00 dB"
    assert finding([], {}) == ""
    repeated = [Ranked(replace(run_of("rtn"), replicate=number), 10.0 * number) for number in (0, 1, 5)]
    assert finding([*rows[:0], *repeated], {}) == "best PSNR-FP at W4A8: rtn 20.00 dB", "the mean, and the row once"


def test_a_row_that_equals_full_precision_comes_first(tmp_path: Path) -> None:
    measure(tmp_path, "rtn", 30.0)
    measure(tmp_path, "q-dit", None)
    path = metrics_file(tmp_path, "q-dit")
    path.write_text(json.dumps({"metrics": {"psnr_fp": None, "mse_fp": 0.0}}), encoding="utf-8")
    rows = [row for label in LABELS if (row := ranked(run_of(label), metrics_file(tmp_path, label)))]
    assert finding(rows, {}) == "best PSNR-FP at W4A8: q-dit equal to full precision, then rtn 30.00 dB"


@pytest.mark.parametrize("text", ["", "{}", '{"error": "failed in quantize: x"}', '{"metrics": null}', "[1]"])
def test_a_row_without_numbers_is_no_finding(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text, encoding="utf-8")
    assert ranked(run_of("rtn"), path) is None


def test_names_and_slow_methods_come_from_the_methods_sources() -> None:
    profile = load_profile("mini")
    assert names_of(profile)["q-dit"] == "Q-DiT"
    slow = learned_labels(profile)
    assert "tfmq-dm" in slow and not {"rtn", "ptqd", "tfmq-dm-no-recon"} & set(slow)


def test_a_failure_names_row_reason_and_log(tmp_path: Path) -> None:
    log = tmp_path / "sample.log"
    log.write_text("step 1\nqdit: error: x.safetensors: damaged\n\n", encoding="utf-8")
    line = failure_line("sample", ["r/mini/runs/s/natural/rtn/w4a8-common/samples/a.json"], [str(log)])
    reason = "qdit: error: x.safetensors: damaged"
    assert line == f"failed: s/natural/rtn/w4a8-common (sample): {reason}; log: {log}"
    assert "no reason in its log" in failure_line("table", ["t.html"], [str(tmp_path / "none")])


# --- the handler ---


def event(name: str, message: str = "", level: int = logging.INFO, **values: Any) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    record.__dict__.update({"event": name or None}, **values)
    return record


def failed_job() -> logging.LogRecord:
    values = {"jobid": 10, "rule_name": "sample", "output": ["rtn"], "log": ["no.log"]}
    return event("job_error", level=logging.ERROR, **values)


@pytest.fixture
def original() -> logging.StreamHandler[StringIO]:
    return logging.StreamHandler(StringIO())


Begin = Callable[[StringIO], ProgressHandler]


@pytest.fixture
def begin(progress: Progress, original: logging.Handler, tmp_path: Path) -> Begin:
    """A handler in the middle of a run."""

    def started(stream: StringIO) -> ProgressHandler:
        handler = ProgressHandler(original, logging.Logger("test"), stream=stream)
        handler.handle(event("", "Building DAG of jobs..."))
        runs = {str(metrics_file(tmp_path, label)): run_of(label) for label in LABELS}
        handler.begin(progress, runs, {"q-dit": "Q-DiT"}, tmp_path / "logs" / "run.log")
        return handler

    return started


def play(handler: ProgressHandler, tmp_path: Path) -> None:
    """A run in which one row is made, one job fails, and the page is made."""
    handler.handle(event("job_started", jobs=[10, 20]))
    handler.handle(event("job_info", "rule sample: a flood of words"))
    handler.handle(failed_job())
    measure(tmp_path, "q-dit", 42.5)
    for number in (20, 21, 90):
        handler.handle(event("job_finished", job_id=number))
    handler.handle(event("", "Cannot reach the disk", logging.ERROR))
    handler.finish()
    handler.close()


def test_without_a_terminal_there_are_plain_lines_only(
    begin: Begin, tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = StringIO()
    play(begin(stream), tmp_path)
    lines = stream.getvalue().splitlines()
    assert not any(character < " " for line in lines for character in line)
    assert lines[1] == "failed: rtn (sample): no reason in its log; log: no.log"
    assert lines[2] == f"qdit: table2 is done, 2 of 3 rows; best PSNR-FP at W4A8: Q-DiT 42.50 dB; {page}"
    assert lines[3] == "Cannot reach the disk"
    assert lines[4].startswith("qdit: 2 of 3 rows, 1 of 1 tables") and lines[4].endswith("1 jobs failed")
    assert len(lines) == 5


def test_a_terminal_is_drawn_in_place(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    stream = Terminal()
    play(begin(stream), tmp_path)
    text = stream.getvalue()
    shown = screen(text)
    assert len(shown) == 5  # two lines that stay, one failure, the table, the sum
    assert shown[3].startswith("table2         [########....]   2 of 3") and "Q-DiT" in shown[3]
    assert all(len(line) < 90 for line in shown[3:]) and "flood" not in text


def screen(text: str) -> list[str]:
    """Lines that a terminal shows after a text with cursor movements."""
    lines: list[str] = []
    for part in text.split("\x1b["):
        count, mark, _ = part.partition("A")
        if mark and count.isdecimal():
            lines = lines[: -int(count)]
            continue
        lines += part.removeprefix("J").removesuffix("\r").splitlines()
    return lines


def test_the_log_file_has_everything(begin: Begin, tmp_path: Path) -> None:
    play(begin(StringIO()), tmp_path)
    text = (tmp_path / "logs" / "run.log").read_text(encoding="utf-8")
    for words in ("Building DAG of jobs...", "a flood of words", "Cannot reach the disk"):
        assert words in text


def test_a_dry_run_and_an_up_to_date_run_are_snakemakes_own(original: logging.StreamHandler[StringIO]) -> None:
    for record, shown in (
        (event("job_info", "rule a:"), ["Building DAG", "rule a:"]),
        (event("", "Nothing to be done"), []),
    ):
        logger, called = logging.Logger("test"), list[bool]()
        handler = ProgressHandler(original, logger, when_nothing=lambda called=called: called.append(True))
        logger.addHandler(handler)
        logger.handle(event("", "Building DAG"))
        assert original.stream.getvalue() == ""
        logger.handle(record)
        assert original.stream.getvalue().split("\n") == [*(shown or ["Nothing to be done"]), ""]
        assert logger.handlers == [original] and called == ([] if shown else [True])
        original.stream.truncate(0)
        original.stream.seek(0)


def test_an_error_before_the_first_job_is_shown_by_snakemake(original: logging.StreamHandler[StringIO]) -> None:
    handler = ProgressHandler(original, logging.Logger("test"))
    handler.handle(event("", "Building DAG of jobs..."))
    handler.handle(event("error", "MissingInputException", logging.ERROR))
    handler.close()
    assert "MissingInputException" in original.stream.getvalue()


def test_an_interrupted_run_is_known(begin: Begin) -> None:
    stream = StringIO()
    handler = begin(stream)
    handler.handle(event("", "Terminating processes on user request, this might take some time."))
    handler.handle(failed_job())
    assert handler.interrupted and stream.getvalue().count("what is complete is kept") == 1
    assert "failed" not in stream.getvalue()
    handler.close()


# --- from Snakemake's graph ---


def test_jobs_know_which_tables_wait_for_them() -> None:
    sample, evaluate = GraphJob("sample", ["a"], label="rtn"), GraphJob("evaluate", ["b"])
    first, second = GraphJob("table", ["t1.html", "t1.csv"]), GraphJob("table", ["t2.html"])
    dependencies = {first: {evaluate: {"b"}}, evaluate: {sample: {"a"}}, second: {}, sample: {}}
    jobs = list(dependencies)

    class Graph:
        def __init__(self) -> None:
            self.jobs, self.dependencies = jobs, dependencies

        def needrun_jobs(self) -> list[GraphJob]:
            return [sample, second]

        def jobid(self, job: GraphJob) -> int:
            return jobs.index(job)

    planned = planned_jobs(Graph(), {"one": ["t1.html"], "two": ["t2.html"]})
    assert [(job.rule, job.label, sorted(job.tables)) for job in planned] == [
        ("sample", "rtn", ["one"]),
        ("table", "", ["two"]),
    ]


def test_single_rows_are_counted_without_a_table(tmp_path: Path, clock: Clock) -> None:
    """`qdit run --row` makes no page: its rows are the last files."""
    measure(tmp_path, "fp", None)
    files = [str(metrics_file(tmp_path, label)) for label in LABELS]
    jobs = [PlannedJob(1, "evaluate", "rtn", (files[1],), frozenset({ROWS}))]
    jobs += [PlannedJob(2, "evaluate", "q-dit", (files[2],), frozenset({ROWS}))]
    progress = Progress({ROWS: files}, {ROWS: files}, jobs, cores=2, clock=clock)
    assert plain_line(progress).startswith("qdit: 1 of 3 rows; about") and not progress.is_done(ROWS)
    finish(progress, clock, 1, 5)
    assert not progress.is_done(ROWS)
    finish(progress, clock, 2, 5)
    assert progress.is_done(ROWS) and progress.seconds_left(ROWS) == 0
    assert table_done_line(progress, ROWS, "") == "qdit: 3 of 3 rows are done"


def test_a_row_of_no_table_is_counted_without_a_finding(original: logging.Handler, tmp_path: Path) -> None:
    """A target can name a metrics.json of a method that no table of the profile has (docs/add-a-method.md)."""
    measure(tmp_path, "mine", 20.0)
    files, stream = [str(metrics_file(tmp_path, "mine"))], StringIO()
    progress = Progress({ROWS: files}, {ROWS: files}, [], cores=1)
    handler = ProgressHandler(original, logging.Logger("test"), stream=stream)
    handler.begin(progress, {}, {}, tmp_path / "logs" / "run.log")
    assert handler.finding(progress, ROWS) == ""
    handler.finish()
    handler.close()
    assert "qdit: 1 of 1 rows" in stream.getvalue()


def test_a_killed_call_has_a_record_too(progress: Progress, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    killed = CallRecord(path)
    finish(progress, clock, 10, 10)
    killed.write_now_and_then(progress)
    assert not path.exists()
    finish(progress, clock, 11, 31)
    killed.write_now_and_then(progress)
    clock.now += 5
    killed.write_now_and_then(progress)  # too early; then SIGKILL
    first = {"jobs": 6, "finished": 2, "failed": 0, "seconds": 41.0, "stopped": True}
    assert json.loads(path.read_text(encoding="utf-8")) == [first]
    CallRecord(path).write(progress, ended=True)
    second = first | {"seconds": 46.0, "stopped": False}
    assert json.loads(path.read_text(encoding="utf-8")) == [first, second]


def test_a_line_of_a_table(progress: Progress) -> None:
    assert table_line(progress, "table2", "found").startswith("table2         [####........]   1 of 3   rows")
