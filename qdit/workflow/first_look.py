"""Make a page of the finished rows while a run continues. It is made again when more rows are finished.

The page is not an output of the workflow. It lies in a separate folder below the results. This folder is removed when
the final page of the table is made. An error here never stops a run.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qdit.core.run import UNQUANTIZED, Run
from qdit.workflow.progress import Progress

FOLDER = "so-far"
"""Folder of the page, below the results."""
INTERVAL = 75.0
"""Seconds from the first rendering to the second. Each further pause is longer by as much."""
PATIENCE = 5.0
"""Seconds that a rendering has to end when it is told to."""


def page_command(table: str, results: Path) -> list[str]:
    """Return the command that makes the page. It has the lowest priority if the system has `nice`."""
    gently = ["nice", "-n", "19"] if shutil.which("nice") else []
    words = ["table", table, "--partial", "--profile", str(results / "profile.json"), "--results", str(results)]
    return [*gently, sys.executable, "-m", "qdit", *words, "--out", str(results / FOLDER / table)]


def page_environment(sources: str) -> dict[str, str]:
    """Return the environment variables of this command: the sources of this suite, one thread, no downloads."""
    return os.environ | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class FirstLook:
    """Makes the page of one table during a run. `runs` maps the metrics.json of each row to its run."""

    def __init__(
        self,
        table: str,
        runs: Mapping[str, Run],
        results: Path,
        sources: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self.table, self._runs, self._results, self._sources = table, runs, results, sources
        self._clock, self._start = clock, start
        self._child: subprocess.Popen[bytes] | None = None
        self._begun: float | None = None
        self._renderings = 0
        self._shown: Sequence[str] = ()
        self._is_said, self._is_over = False, False

    @property
    def page(self) -> Path:
        """Path of the page's HTML file."""
        return self._results / FOLDER / f"{self.table}.html"

    def update(self, progress: Progress) -> str:
        """Make the page again if there are new rows.

        Return a line for the user when the page exists for the first time, else an empty text.
        """
        if self._is_over:
            return ""
        if progress.is_done(self.table):
            self.end()
            shutil.rmtree(self._results / FOLDER, ignore_errors=True)
            return ""
        message = self._reap()
        rows = progress.measured_rows(self.table)
        if self._child is None and self._is_due() and rows != self._shown and self._is_worth(progress, rows):
            self._render(rows)
        return message

    def end(self) -> None:
        """Make no more pages, and stop the command if it still runs."""
        self._is_over = True
        child, self._child = self._child, None
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _is_due(self) -> bool:
        return self._begun is None or self._clock() - self._begun >= INTERVAL * self._renderings

    def _is_worth(self, progress: Progress, rows: Sequence[str]) -> bool:
        """Whether full precision and a quantized row are measured, and no row of an earlier run waits to be redone."""
        bits = [self._runs[row].bits for row in rows if row in self._runs]
        outdated = (row for row in progress.all_rows(self.table) if row not in rows and Path(row).is_file())
        ready = UNQUANTIZED in bits and any(name != UNQUANTIZED for name in bits)
        return ready and (self._results / "profile.json").is_file() and not any(outdated)

    def _render(self, rows: Sequence[str]) -> None:
        self._begun = self._clock()
        self._renderings += 1
        log = self._results / "logs" / f"{FOLDER}.log"
        with contextlib.suppress(OSError), log.open("wb") as stream:
            self.page.parent.mkdir(parents=True, exist_ok=True)
            self._child = self._start(
                page_command(self.table, self._results),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=page_environment(self._sources),
                start_new_session=True,
            )
            self._shown = rows

    def _reap(self) -> str:
        """Note that a rendering ended."""
        if self._child is None or (code := self._child.poll()) is None:
            return ""
        self._child = None
        if code or self._is_said:
            return ""
        self._is_said = True
        return f"qdit: first results: {self.page.resolve()} (is replaced as rows arrive)"
