"""The page that follows the rows of a run: when it is rendered, by what command, and that it leaves nothing behind."""

import json
import logging
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from qdit.core.run import Run
from qdit.workflow.first_look import FOLDER, INTERVAL, FirstLook, page_command, page_environment
from qdit.workflow.progress import PlannedJob, Progress
from qdit.workflow.progress_log import ProgressHandler

LABELS = ("fp", "rtn", "q-dit", "repq-vit")


class Child:
    """Stands for a process that runs until the test ends it."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.code: int | None = None
        self.stubborn = stubborn
        self.ended_by: list[str] = []

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.ended_by.append("terminate")
        self.code = None if self.stubborn else -15

    def kill(self) -> None:
        self.ended_by.append("kill")
        self.code = -9

    def wait(self, seconds: float | None = None) -> int:
        if self.code is None:
            raise subprocess.TimeoutExpired("qdit", seconds or 0)
        return self.code


class Run4:
    """A run of four rows, full precision first, whose rows and page are made by hand."""

    def __init__(self, results: Path) -> None:
        self.results, self.now = results, 0.0
        self.runs = {str(self.file(label)): self.run(label) for label in LABELS}
        self.page = str(results / "tables" / "table2.html")
        waits = frozenset({"table2"})
        jobs = [PlannedJob(n, "evaluate", "", (str(self.file(label)),), waits) for n, label in enumerate(LABELS)]
        jobs.append(PlannedJob(9, "table", "", (self.page,), waits))
        self.progress = Progress({"table2": list(self.runs)}, {"table2": [self.page]}, jobs, cores=2, clock=self.clock)
        self.children: list[Child] = []
        self.commands: list[list[str]] = []
        self.options: dict[str, Any] = {}
        (results / "logs").mkdir(parents=True)
        (results / "profile.json").write_text("{}", encoding="utf-8")
        self.look = FirstLook("table2", self.runs, results, "sources", clock=self.clock, start=self.start)

    def clock(self) -> float:
        return self.now

    def start(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        self.options = options
        self.children.append(Child())
        return self.children[-1]

    def run(self, label: str) -> Run:
        return Run("s", "natural", label, "w16a16" if label == "fp" else "w4a8", "common")

    def file(self, label: str) -> Path:
        return self.results / "runs" / self.run(label).path / "metrics.json"

    def measure(self, *labels: str) -> str:
        """Rows are made; what is said then."""
        for label in labels:
            self.file(label).parent.mkdir(parents=True, exist_ok=True)
            self.file(label).write_text(json.dumps({"metrics": {"psnr_fp": 40.0}}), encoding="utf-8")
            self.progress.finish(LABELS.index(label))
        return self.look.update(self.progress)


@pytest.fixture
def four(tmp_path: Path) -> Run4:
    return Run4(tmp_path / "results" / "p")


def test_the_first_page_waits_for_full_precision_and_a_quantized_row(four: Run4) -> None:
    four.measure("rtn")
    assert not four.commands
    four.measure("fp")
    assert four.commands == [page_command("table2", four.results)]


def test_it_is_said_once_when_the_page_is_there(four: Run4) -> None:
    assert four.measure("fp", "rtn") == "" and four.look.update(four.progress) == ""
    four.children[0].code = 0
    said = four.look.update(four.progress)
    assert said == f"qdit: first results: {four.look.page.resolve()} (is replaced as rows arrive)"
    four.now += INTERVAL
    four.measure("q-dit")
    four.children[1].code = 0
    assert four.look.update(four.progress) == ""


def test_one_rendering_at_a_time_not_too_often_and_only_for_new_rows(four: Run4) -> None:
    four.measure("fp", "rtn")
    four.now += 2 * INTERVAL
    four.measure("q-dit")
    assert len(four.commands) == 1, "the first one still runs"
    four.children[0].code = 0
    four.look.update(four.progress)
    assert len(four.commands) == 2
    four.children[1].code = 0
    four.now += 1.5 * INTERVAL
    four.measure("repq-vit")
    assert len(four.commands) == 2, "too early: pauses grow"
    four.now += INTERVAL / 2
    four.look.update(four.progress)
    assert len(four.commands) == 3
    four.children[2].code = 0
    four.now += 2 * INTERVAL
    four.look.update(four.progress)
    assert len(four.commands) == 3, "no row is new"


def test_rows_of_an_earlier_run_that_are_made_again_are_not_shown(four: Run4) -> None:
    four.file("q-dit").parent.mkdir(parents=True)
    four.file("q-dit").write_text("{}", encoding="utf-8")
    four.measure("fp", "rtn")
    assert not four.commands
    four.measure("q-dit")
    assert len(four.commands) == 1


def test_a_page_that_cannot_be_rendered_is_tried_again_and_never_said(four: Run4) -> None:
    four.measure("fp", "rtn")
    four.children[0].code = 2
    four.now += INTERVAL
    assert four.measure("q-dit") == "" and len(four.commands) == 2


def test_a_system_that_starts_no_process_is_no_failure(four: Run4, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(four.look, "_start", refuse)
    assert four.measure("fp", "rtn") == ""
    four.look.end()


def test_the_tables_own_page_ends_and_removes_it(four: Run4) -> None:
    four.measure("fp", "rtn")
    four.look.page.write_text("so far", encoding="utf-8")
    four.progress.finish(9)
    assert four.look.update(four.progress) == ""
    assert four.children[0].ended_by == ["terminate"] and not (four.results / FOLDER).exists()
    four.now += INTERVAL
    four.measure("q-dit")
    assert len(four.commands) == 1


def test_a_rendering_that_does_not_end_is_killed(four: Run4) -> None:
    four.measure("fp", "rtn")
    four.children[0].stubborn = True
    four.children[0].wait = lambda seconds=None: (  # type: ignore[method-assign]
        Child.wait(four.children[0], seconds) if seconds is not None else -9
    )
    four.look.end()
    assert four.children[0].ended_by == ["terminate", "kill"]


def test_the_command_writes_outside_the_outputs_at_the_lowest_priority(four: Run4) -> None:
    words = page_command("table2", Path("results/p"))
    assert words[:3] == ["nice", "-n", "19"] and words[3:6] == [sys.executable, "-m", "qdit"]
    assert "--partial" in words and words[-2:] == ["--out", "results/p/so-far/table2"]
    four.measure("fp", "rtn")
    assert four.options["env"] == page_environment("sources") and four.options["start_new_session"]
    assert four.options["env"]["PYTHONPATH"] == "sources" and four.options["env"]["OMP_NUM_THREADS"] == "1"


def test_the_handler_shows_it_and_ends_it_with_the_run(four: Run4) -> None:
    stream = StringIO()
    handler = ProgressHandler(logging.StreamHandler(StringIO()), logging.Logger("test"), stream=stream)
    handler.begin(four.progress, four.runs, {}, four.results / "logs" / "run.log", four.look)
    for number in (0, 1):
        four.file(LABELS[number]).parent.mkdir(parents=True)
        four.file(LABELS[number]).write_text('{"metrics": {"psnr_fp": 40.0}}', encoding="utf-8")
        handler.handle(finished(number))
    four.children[0].code = 0
    four.now += INTERVAL
    handler.handle(finished(2))
    assert stream.getvalue().count("qdit: first results: ") == 1
    assert len(four.children) == 2 and four.children[1].code is None
    handler.finish()
    assert four.children[1].ended_by == ["terminate"]
    handler.handle(finished(3))
    assert len(four.children) == 2
    handler.close()


def finished(number: int) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, "", None, None)
    record.__dict__.update(event="job_finished", job_id=number)
    return record
