"""Follow the progress of a run of the workflow: finished rows, and time that the remaining jobs need."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS: Mapping[str, float] = {
    "quantize": 6,
    "calibrate": 8,
    "search": 60,
    "sample": 12,
    "sample_integer": 20,
    "sample_video": 15,
    "evaluate_video": 15,
    "table": 4,
    "index": 10,
    "figures": 5,
}
"""Rule → core-seconds of one job in the mini profile, as a first guess until the run has measured its own."""
LEARNED_SECONDS = 45.0
"""The same of a quantization that learns rounding."""
OTHER_SECONDS = 2.0
"""The same for all other rules."""
WARM_UP = 60.0
"""Seconds until the jobs at work say better than the number of cores how many run at once."""


@dataclass(frozen=True)
class PlannedJob:
    """A job that must run: its rule, its method's label (if any), its outputs, and the tables that need it."""

    number: int
    rule: str
    label: str
    outputs: tuple[str, ...]
    tables: frozenset[str]

    @property
    def kind(self) -> tuple[str, str]:
        """(rule, label). Jobs with equal rule and label take about the same time."""
        return self.rule, self.label


ROWS = "rows"
"""Name under which single rows are counted (`qdit run --row`). They have no page; the last files are metrics.json."""


def planned_jobs(dag: Any, last_files: Mapping[str, Sequence[str]]) -> list[PlannedJob]:
    """List the jobs of Snakemake's graph that must run. `last_files` maps each table to the files made last for it."""
    waiting: dict[Any, set[str]] = defaultdict(set)
    for job in dag.jobs:
        output_files = set(map(str, job.output))
        for table, files in last_files.items():
            if not output_files.isdisjoint(files):
                for need in ancestors(job, dag.dependencies):
                    waiting[need].add(table)
    return [
        PlannedJob(
            dag.jobid(job),
            job.rule.name,
            str(job.wildcards_dict.get("label", "")),
            tuple(map(str, job.output)),
            frozenset(waiting[job]),
        )
        for job in dag.needrun_jobs()
    ]


def ancestors(job: Any, dependencies: Mapping[Any, Iterable[Any]]) -> set[Any]:
    """Return a job and all jobs that it waits for, directly or through other jobs."""
    reached, open_jobs = {job}, [job]
    while open_jobs:
        for need in dependencies.get(open_jobs.pop(), ()):
            if need not in reached:
                reached.add(need)
                open_jobs.append(need)
    return reached


class Progress:
    """The state of a run. Paths are written as in Snakemake.

    `rows` maps each table to the metrics.json of its rows. `last_files` maps each table to the files that are made last
    for it, which is one page. Single rows without a table have the name `ROWS`.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[str]],
        last_files: Mapping[str, Sequence[str]],
        jobs: Iterable[PlannedJob],
        *,
        cores: int,
        learned: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows, self.last_files = rows, last_files
        self.jobs = {job.number: job for job in jobs}
        self._waiting = {output for job in self.jobs.values() for output in job.outputs}
        self._cores, self._learned, self._clock = max(1, cores), frozenset(learned), clock
        self._begin = clock()
        self._started: dict[int, float] = {}
        self._finished: set[int] = set()
        self._failed: set[int] = set()
        self._there = {row for row in self.all_rows() if row not in self._waiting and Path(row).is_file()}
        self._spent: dict[tuple[str, str], float] = defaultdict(float)
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._busy, self._guessed = 0.0, 0.0

    def start(self, numbers: Iterable[int]) -> None:
        """Record that these jobs begin now."""
        self._started.update(dict.fromkeys(numbers, self._clock()))

    def finish(self, number: int) -> PlannedJob | None:
        """Record that a job is finished. Return the job, or None if it was not planned."""
        job = self.jobs.get(number)
        if job is None or number in self._finished:
            return None
        self._finished.add(number)
        self._failed.discard(number)
        self._waiting.difference_update(job.outputs)
        self._there.update(job.outputs)
        if number in self._started:
            seconds = self._clock() - self._started.pop(number)
            self._spent[job.kind] += seconds
            self._counts[job.kind] += 1
            self._busy += seconds
            self._guessed += self._guess(*job.kind)
        return job

    def fail(self, number: int) -> None:
        """Record that a job failed. It does not count as remaining work."""
        self._started.pop(number, None)
        self._failed.add(number)

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._begin

    @property
    def finished(self) -> int:
        """Number of jobs that are finished."""
        return len(self._finished)

    @property
    def failures(self) -> int:
        """Number of jobs that failed."""
        return len(self._failed)

    def is_measured(self, row: str) -> bool:
        """Return whether a row's metrics.json exists and will not be made again."""
        return row in self._there

    def measured_rows(self, table: str | None = None) -> list[str]:
        """Return the finished rows of a table, as paths of metrics.json.

        Without a table: the rows of all tables, each once.
        """
        return [row for row in self.all_rows(table) if self.is_measured(row)]

    def all_rows(self, table: str | None = None) -> list[str]:
        """Return all rows of a table, as paths of metrics.json; without a table the rows of all tables, each once."""
        if table is not None:
            return list(dict.fromkeys(self.rows[table]))
        return list(dict.fromkeys(row for rows in self.rows.values() for row in rows))

    def is_done(self, table: str) -> bool:
        """Return whether the last files of a table exist and will not be made again."""
        return self._waiting.isdisjoint(self.last_files[table])

    def seconds_left(self, table: str | None = None) -> float:
        """Estimate the wall seconds that the unfinished jobs of a table need, or all jobs without a table."""
        now = self._clock()
        left = []
        for number, job in self.jobs.items():
            if number in self._finished or number in self._failed or (table is not None and table not in job.tables):
                continue
            expected = self._expected(job)
            spent = now - self._started[number] if number in self._started else 0.0
            left.append(max(expected - spent, 0.05 * expected))
        return max(sum(left) / self._at_once(), max(left, default=0.0))

    def _at_once(self) -> float:
        """Number of jobs that run at the same time: first the number of cores, later the observed number."""
        if (elapsed := self.seconds) < WARM_UP:
            return self._cores
        now = self._clock()
        busy = self._busy + sum(now - begin for begin in self._started.values())
        return min(max(busy / elapsed, 1.0), self._cores)

    def _expected(self, job: PlannedJob) -> float:
        """Seconds of a job: the mean of its kind, or else the guess times the ratio of measured to guessed time."""
        if count := self._counts.get(job.kind):
            return self._spent[job.kind] / count
        return self._guess(*job.kind) * (self._busy / self._guessed if self._guessed else 1.0)

    def _guess(self, rule: str, label: str) -> float:
        return LEARNED_SECONDS if rule == "quantize" and label in self._learned else SECONDS.get(rule, OTHER_SECONDS)
