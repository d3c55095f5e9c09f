"""List the rows whose method failed or does not support them. A run prints the list at its end."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from qdit.core.errors import DataError
from qdit.core.failure import Failure
from qdit.core.files import read_json
from qdit.core.run import SIMULATE, Run
from qdit.workflow.profile import Profile, runs_of
from qdit.workflow.replicates import with_replicates


@dataclass(frozen=True)
class FailedRow:
    """A row without numbers: the path of its run below `runs/`, the failure, and the log of the failed job."""

    path: str
    failure: Failure
    log: Path

    @property
    def is_allowed(self) -> bool:
        """Whether the method says that it does not support the row. All other failures make the exit code 1."""
        return self.failure.kind == "unsupported"

    @property
    def text(self) -> str:
        """Line about the row for a list."""
        return f"{self.path}: {self.failure.reason} (log: {self.log})"


def failed_rows(profile: Profile, results: Path, tables: Iterable[str]) -> list[FailedRow]:
    """Return the rows of these tables whose metrics.json holds an error. Rows without the file are left out."""
    runs = dict.fromkeys(with_replicates(profile, (run for table in tables for run in runs_of(profile, table))))
    return [row for run in runs if (row := failed_row(run, results)) is not None]


def unmeasured(profile: Profile, results: Path, tables: Iterable[str]) -> list[str]:
    """Write a line with the number of rows without metrics.json; [] if every row has it."""
    runs = set(with_replicates(profile, (run for table in tables for run in runs_of(profile, table))))
    missing = sum(not (results / "runs" / run.path / "metrics.json").is_file() for run in runs)
    return [f"Rows that are not measured yet: {missing} of {len(runs)}"] if missing else []


def failed_row(run: Run, results: Path) -> FailedRow | None:
    """Read the failure from a run's metrics.json. None if the file holds numbers or does not exist."""
    folder = results / "runs" / run.path
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return None
    record = read_json(metrics)
    if not isinstance(record, dict):
        raise DataError(f"{metrics}: found no JSON object; remove it and run the workflow again")
    if "error" not in record:
        return None
    failure = Failure.parse(str(record["error"]))
    return FailedRow(run.path, failure, log_of(run, results, failure))


def log_of(run: Run, results: Path, failure: Failure) -> Path:
    """Return the log of the job that recorded a failure. An integer run uses the quantization of the simulated run."""
    folder = results / "runs" / run.path / "logs"
    quantized = results / "runs" / replace(run, mode=SIMULATE).path / "logs"
    sampled = sorted(folder.glob("sample-*.log"))
    recorded = [log for log in (quantized / "quantize.log", *sampled) if log.is_file() and says_recorded(log)]
    if failure.step == "sample":
        recorded = [log for log in recorded if log in sampled] or recorded
    return recorded[0] if recorded else folder / "evaluate.log"


def says_recorded(log: Path) -> bool:
    """Return whether the log of a job contains the line about a recorded failure (`qdit.core.failure.say`)."""
    return "qdit: recorded: " in log.read_text(encoding="utf-8", errors="replace")


def summary(rows: list[FailedRow]) -> list[str]:
    """Write lines with the failed rows, for the end of a run; [] if every row has numbers."""
    failed = [row for row in rows if not row.is_allowed]
    unsupported = [row for row in rows if row.is_allowed]
    lines = [f"Rows whose method failed ({len(failed)}):", *(f"  {row.text}" for row in failed)] if failed else []
    if unsupported:
        lines += [f"Rows that their method does not support ({len(unsupported)}):"]
        lines += [f"  {row.text}" for row in unsupported]
    return lines
