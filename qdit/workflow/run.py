"""Build the snakemake call for tables or rows of a profile, estimate its cost, and run it (`qdit run`)."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from qdit.core.disk import require_room
from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT
from qdit.core.run import Run
from qdit.workflow.cost import disk_bytes
from qdit.workflow.profile import Profile, full_precision_run, profile_file, runs_of
from qdit.workflow.replicates import with_replicates
from qdit.workflow.run_time import seconds_of

DEFAULT = "mini"
"""The profile that the Snakefile takes by itself."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run: Ctrl-C, `kill`, and a terminal that closes."""
PAGES_BYTES = 30e6
"""Room for a table's pages with their pictures."""


def snakemake_command(
    targets: Sequence[str],
    names: Sequence[str],
    *,
    cores: str,
    folder: Path,
    verbose: bool = False,
    gpus: int | None = None,
) -> list[str]:
    """Return the call of Snakemake that makes `targets` of the profile and its overlays, run in `folder`.

    `gpus` is the number of jobs with a GPU that run at the same time. In a checkout the call is the one from the
    documentation. Elsewhere it names the Snakefile and its default options.
    """
    command = ["snakemake", "--cores", cores, *targets]
    if folder.resolve() != ROOT:
        command += ["--snakefile", str(ROOT / "Snakefile")]
        command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    if verbose:
        command.append("--verbose")
    if gpus is not None:
        command += ["--resources", f"gpu={gpus}"]
    overlays = [profile_file(name) for name in names]
    if list(names) != [DEFAULT]:
        command += ["--configfile", *map(str, overlays)]
    return command


def gpus_for(profile: Profile) -> int | None:
    """Return the number of GPUs of this machine (at least 1) for a profile that computes on GPUs; else None."""
    if profile.get("compute", {}).get("device") != "cuda":
        return None
    import torch

    return max(1, torch.cuda.device_count())


def printed(command: Sequence[str]) -> str:
    """Write a command as a person types it."""
    return shlex.join(command)


def executable(command: Sequence[str]) -> list[str]:
    """Return the command as a module of this Python (`python -m …`), so that it does not depend on PATH."""
    return [sys.executable, "-m", *command]


def call(command: Sequence[str]) -> int:
    """Run a command and return its exit code, or 128 plus the number of the signal that ended it.

    Ctrl-C, and each of the signals SIGINT, SIGTERM and SIGHUP to this process, interrupts the command and its children
    once. The command has a separate process group, so the terminal does not interrupt it a second time. The command
    ends its jobs and prints how to continue. This process waits for it.
    """
    early: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def interrupt(number: int, _: FrameType | None = None) -> None:
        if not children:
            early.append(number)
        elif children[0].returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(children[0].pid, signal.SIGINT)

    def pause(number: int, _: FrameType | None = None) -> None:
        with contextlib.suppress(ProcessLookupError):
            for child in children:
                os.killpg(child.pid, number)
        os.kill(os.getpid(), signal.SIGSTOP)
        with contextlib.suppress(ProcessLookupError):
            for child in children:
                os.killpg(child.pid, signal.SIGCONT)

    functions = dict.fromkeys(ENDING, interrupt) | {signal.SIGTSTP: pause}
    with handlers(functions), subprocess.Popen(command, process_group=0) as child:
        children.append(child)
        for number in early[:1]:
            interrupt(number)
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def handlers(functions: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Handle signals by these functions inside a `with` block. A signal that is ignored (nohup) stays ignored."""
    before = {number: signal.getsignal(number) for number in functions}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, functions[number])
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def rows_of(profile: Profile, tables: Sequence[str], patterns: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Return table → its rows whose path contains one of `patterns`, e.g. `q-dit/w4a8`; without patterns all rows.

    The full-precision run with the same noise is added. The replicates of a row follow the row. ConfigError for a
    pattern that fits no row.
    """
    rows = {table: with_replicates(profile, runs_of(profile, table)) for table in tables}
    every = list(dict.fromkeys(run for runs in rows.values() for run in runs))
    for pattern in patterns:
        if not any(matches(run, pattern) for run in every):
            example = every[len(every) // 2].path
            raise ConfigError(
                f"--row {pattern!r}: no row of {', '.join(tables)} has these words in its path (one path is {example});"
                " `qdit ls` lists all rows"
            )
    if not patterns:
        return rows
    rows_of_table = {}
    for table, runs in rows.items():
        named = [run for run in runs if any(matches(run, pattern) for pattern in patterns)]
        with_full = dict.fromkeys(row for run in named for row in (full_precision_run(profile, run), run))
        if named:
            rows_of_table[table] = list(with_full)
    return rows_of_table


def matches(run: Run, pattern: str) -> bool:
    """Return whether a run's path contains the pattern, from the start of a name: `tn/w4a8` does not fit `rtn/w4a8`."""
    return f"/{pattern.strip('/')}" in f"/{run.path}"


def row_targets(rows: Iterable[Run], results: Path) -> list[str]:
    """Return the files that Snakemake must make for single rows."""
    return [str(run.folder(results) / "metrics.json") for run in dict.fromkeys(rows)]


def plan_text(profile: Profile, rows: dict[str, list[Run]], results: Path, *, cores: int, listed: bool = True) -> str:
    """Write a table with rows, missing rows, time and disk of each table. The last line counts shared rows once.

    `listed` adds a line for each missing row.
    """
    every = list(dict.fromkeys(run for runs in rows.values() for run in runs))
    lines = [f"{'table':<16} rows  measured  to make     time      disk"]
    at_once = 1 if "files" in profile else cores
    for table, runs in [*rows.items(), ("all, each once", every)]:
        missing = missing_rows(runs, results)
        seconds, size = seconds_of(profile, missing, results) / at_once, room_bytes(profile, missing, tables=0)
        lines.append(
            f"{table:<16} {len(runs):>4}  {len(runs) - len(missing):>8}  {len(missing):>7}"
            f"  {_minutes(seconds):>7}  {_disk(size):>8}"
        )
    where = "of one GPU at the speed that qdit doctor says" if "files" in profile else f"on {cores} cores"
    lines += [f"time: {where}, by rows that were made here, else by a guess; pages and figures besides"]
    missing = missing_rows(every, results)
    return "\n".join(
        [*lines, *(["rows to make:", *(f"  {run.path}" for run in missing)] if listed and missing else [])]
    )


def missing_rows(runs: Iterable[Run], results: Path) -> list[Run]:
    """Return the runs that have no metrics.json."""
    return [run for run in runs if not (run.folder(results) / "metrics.json").is_file()]


def room_bytes(profile: Profile, missing: Sequence[Run], *, tables: int) -> float:
    """Return the bytes on disk that the missing rows and the pages of `tables` tables need."""
    return sum(disk_bytes(profile, missing).values()) + PAGES_BYTES * tables


def require_room_for(profile: Profile, rows: dict[str, list[Run]], results: Path) -> None:
    """Raise DataError in one line if the disk of the results is too small for the missing rows."""
    missing = missing_rows(dict.fromkeys(run for runs in rows.values() for run in runs), results)
    if missing:
        require_room(results, room_bytes(profile, missing, tables=len(rows)), f"{len(missing)} rows and their pages")


def _disk(size: float) -> str:
    """`12 MB`, `1.5 TB`."""
    return f"{size / 1e6:.0f} MB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def _minutes(seconds: float) -> str:
    """`0 min`, `12 min`, `2.5 h`."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
