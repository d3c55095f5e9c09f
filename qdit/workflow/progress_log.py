"""Print progress instead of Snakemake's long output, by a handler of the events that Snakemake logs.

Snakemake finds logger plugins only in packages named `snakemake_logger_plugin_*` on the import path. An editable
installation of a checkout has no such package, and Snakemake does not start if a profile names a missing one. So the
Snakefile replaces Snakemake's own stream handler by this handler. It reads the same events (`record.event`). With
another logger (`--logger`), `--verbose`, `--quiet` or `--printshellcmds`, Snakemake's own output stays.

Records before the first job are stored, because at that time nobody knows whether jobs will run. For a dry run, a
report or a run without jobs, Snakemake's own handler then prints all of them.
"""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from qdit.core.errors import QditError
from qdit.core.files import read_json, write_json
from qdit.core.run import Run
from qdit.workflow.first_look import FirstLook
from qdit.workflow.progress import Progress
from qdit.workflow.progress_findings import Ranked, finding, ranked
from qdit.workflow.progress_text import failure_line, plain_line, table_done_line, table_line, total_line

STREAM_HANDLER = "DefaultStreamHandler"
"""How Snakemake names the handler that writes to the terminal."""
HELD = ("Assuming", "Building DAG", "Using shell", "Provided", "Rules claiming", "Conda env", "Singularity", "host:")
HELD_EVENTS = ("run_info", "workflow_started", "resources_info", "rulegraph")
NOTHING = "Nothing to be done"
INTERRUPTED = ("Terminating processes on user request", "died with <Signals.SIGINT")
"""Signs that the user ended the run: of Snakemake's scheduler, and of a job that the terminal's Ctrl-C reached."""
EVERY = 30.0
"""Seconds between plain lines."""
TICK = 1.0
"""Seconds between drawings of a terminal."""


class ProgressHandler(logging.Handler):
    """Prints lines about the tables to a stream. On a terminal the lines are updated; elsewhere new lines are added."""

    def __init__(
        self,
        original: logging.Handler,
        logger: logging.Logger,
        *,
        stream: TextIO | None = None,
        when_nothing: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._original, self._logger, self._when_nothing = original, logger, when_nothing
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._held: list[logging.LogRecord] | None = []
        self._progress: Progress | None = None
        self._runs: Mapping[str, Run] = {}
        self._names: Mapping[str, str] = {}
        self._ranked: dict[str, Ranked | None] = {}
        self._first_look: FirstLook | None = None
        self._said: set[str] = set()
        self._drawn = 0
        self._file: logging.Handler | None = None
        self._call: CallRecord | None = None
        self._stop = threading.Event()
        self.interrupted = False

    def begin(
        self,
        progress: Progress,
        runs: Mapping[str, Run],
        names: Mapping[str, str],
        log: Path,
        first_look: FirstLook | None = None,
    ) -> None:
        """Start to show progress; called before the first job. The stored records are written to the log file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with self.lock or threading.RLock():
            self._file = logging.FileHandler(log, encoding="utf-8")
            self._call = CallRecord(log.with_name("calls.json"))
            self._file.setFormatter(self._original.formatter)
            for record in self._held or []:
                self._to_file(record)
            self._held, self._progress, self._runs, self._names = None, progress, runs, names
            self._said = {table for table in progress.rows if progress.is_done(table)}
            self._first_look = first_look
            self._write(f"qdit: {len(progress.jobs)} jobs to do, log {log}; Ctrl-C stops, the same command goes on")
            self._draw()
        threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Process one log record of Snakemake."""
        if self._held is not None and not is_preparation(record) and record.levelno < logging.WARNING:
            self._give_back(record)
        elif self._held is not None and record.levelno < logging.WARNING:
            self._held.append(record)
        elif self._progress is None:
            self._original.handle(record)
        else:
            self._to_file(record)
            self._take(record, self._progress)

    def _take(self, record: logging.LogRecord, progress: Progress) -> None:
        event = str(getattr(record, "event", None) or "")
        if event == "job_started":
            progress.start(record.jobs)  # type: ignore[attr-defined]
        elif event == "job_finished":
            self._finish(progress, record.job_id)  # type: ignore[attr-defined]
        elif event == "job_error":
            self._fail(progress, record.__dict__)
        elif any(sign in record.getMessage() for sign in INTERRUPTED):
            self._interrupt()
        elif record.levelno >= logging.ERROR and not says_again(record):
            self._write(self.format_original(record))

    def _interrupt(self) -> None:
        if not self.interrupted:
            self.interrupted = True
            self._write("qdit: stopping; jobs that run are ended and what is complete is kept")

    def _finish(self, progress: Progress, number: int) -> None:
        progress.finish(number)
        for table in progress.rows:
            if table not in self._said and progress.is_done(table):
                self._said.add(table)
                if not self._terminal:
                    self._write(table_done_line(progress, table, self.finding(progress, table)))
        self._look(progress)
        self._draw()

    def _look(self, progress: Progress) -> None:
        """Update the page of the first table if new rows have arrived."""
        if self._first_look is not None and not self._stop.is_set() and (line := self._first_look.update(progress)):
            self._write(line)

    def _fail(self, progress: Progress, job: Mapping[str, Any]) -> None:
        if self.interrupted:  # the user ended it
            return
        progress.fail(job["jobid"])
        self._write(failure_line(job["rule_name"], list(job["output"]), list(job["log"])))
        self._draw()

    def finding(self, progress: Progress, table: str) -> str:
        """Write the best result of a table so far. Each metrics.json is read only once."""
        for row in progress.measured_rows(table):
            if row not in self._ranked:
                run = self._runs.get(row)  # None for a row of no table of the profile
                self._ranked[row] = None if run is None else ranked(run, Path(row))
        values = (self._ranked.get(path) for path in progress.rows[table])
        return finding((measured for measured in values if measured), self._names)

    def finish(self) -> None:
        """Print the last state of a run. Later records go to the log file, and errors also to the stream."""
        self._stop.set()
        with self.lock or threading.RLock():
            self._end_look()
            if self._progress is not None:
                self._draw() if self._terminal else self._write(plain_line(self._progress, ended=True))
                if self._call is not None:
                    self._call.write(self._progress, ended=not self.interrupted)
            self._drawn = 0

    def close(self) -> None:
        """Stop, and print the records that are still stored."""
        self._stop.set()
        self._end_look()
        held, self._held = self._held, None
        for record in held or []:
            self._original.handle(record)
        if self._file is not None:
            self._file.close()
        super().close()

    def _end_look(self) -> None:
        if self._first_look is not None:
            self._first_look.end()

    def format_original(self, record: logging.LogRecord) -> str:
        """Write a record as Snakemake would print it."""
        return str(self._original.format(record) or record.getMessage()).strip("\n")

    def _give_back(self, record: logging.LogRecord) -> None:
        """No job runs: Snakemake's own handler shows everything."""
        held, self._held = self._held or [], None
        self._logger.removeHandler(self)
        self._logger.addHandler(self._original)
        if NOTHING in record.getMessage():
            self._original.handle(record)
            self._when_nothing()
            return
        for earlier in [*held, record]:
            self._original.handle(earlier)

    def _to_file(self, record: logging.LogRecord) -> None:
        if self._file is not None and all(check.filter(record) for check in self._original.filters):  # type: ignore[union-attr]
            self._file.handle(record)

    def _tick(self) -> None:
        """Draw a terminal every second; elsewhere say a line every half minute."""
        while not self._stop.wait(TICK if self._terminal else EVERY):
            with self.lock or threading.RLock():
                if self._progress is not None and not self._stop.is_set():
                    self._look(self._progress)
                    if self._call is not None:
                        self._call.write_now_and_then(self._progress)
                    self._draw() if self._terminal else self._write(plain_line(self._progress))

    def _draw(self) -> None:
        """The lines of all tables in the place of those drawn before."""
        if self._progress is None or not self._terminal:
            return
        progress, size = self._progress, shutil.get_terminal_size()
        lines = [table_line(progress, table, self.finding(progress, table)) for table in progress.rows]
        lines = [*lines, total_line(progress)][-max(size.lines - 1, 1) :]
        self._erase()
        self._stream.write("".join(f"{line[: size.columns - 1]}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\r\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, text: str) -> None:
        """A line that stays, above the tables of a terminal."""
        self._erase()
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()


class CallRecord:
    """The entry of this call of the workflow in calls.json: jobs, finished and failed jobs, wall seconds.

    It is written again and again during the call. So a call that was killed (SIGKILL) has an entry too; `stopped` is
    true there, as after Ctrl-C.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0
        try:
            self._earlier = list(read_json(path)) if path.is_file() else []
        except (QditError, TypeError):
            self._earlier = []

    def write(self, progress: Progress, *, ended: bool) -> None:
        """Write the entry. `ended` says whether the call came to its end."""
        call = {"jobs": len(progress.jobs), "finished": progress.finished, "failed": progress.failures}
        self._written = progress.seconds
        write_json(self._path, [*self._earlier, call | {"seconds": round(self._written, 1), "stopped": not ended}])

    def write_now_and_then(self, progress: Progress) -> None:
        """Write the entry if it is older than `EVERY` seconds."""
        if progress.seconds - self._written >= EVERY - TICK:
            self.write(progress, ended=False)


def is_preparation(record: logging.LogRecord) -> bool:
    """Return whether a record is only about the plan. Such records come before every run."""
    event = str(getattr(record, "event", None) or "")
    return event in HELD_EVENTS or (not event and record.getMessage().startswith(HELD))


def says_again(record: logging.LogRecord) -> bool:
    """Return whether an error repeats what the line about a failed job or the end of the run already says."""
    return getattr(record, "exception", "") == "RuleException" or "At least one job did not" in record.getMessage()


def attach(workflow: Any, when_nothing: Callable[[], None] = lambda: None) -> ProgressHandler | None:
    """Replace Snakemake's stream handler by this handler, and return it. None if the user wants Snakemake's output."""
    settings = workflow.output_settings
    if settings is None or settings.verbose or settings.quiet or settings.printshellcmds or settings.debug_dag:
        return None
    from snakemake.logging import logger

    original = next((handler for handler in logger.handlers if handler.name == STREAM_HANDLER), None)
    if original is None:
        return None
    handler = ProgressHandler(original, logger, when_nothing=when_nothing)
    handler.name = "ProgressHandler"
    logger.removeHandler(original)
    logger.addHandler(handler)
    return handler
