"""Write how long a finished workflow took, by table and by method, from the benchmark files of its jobs."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from qdit.core.errors import DataError
from qdit.core.run import Run
from qdit.report.data.allocations import timed_searches
from qdit.workflow.profile import Profile, runs_of
from qdit.workflow.replicates import with_replicates

STEPS = ("quantize", "sample")


def times_text(profile: Profile, results: Path) -> str:
    """Return Markdown tables: seconds of single-threaded jobs by table and by method, and wall time of each search.

    Each replicate counts as one run. Runs and searches without a measured time are left out. The tables of results hold
    no times, so that equal results give equal bytes. Raises DataError if no run has times.
    """
    run_times = {
        run: times for table in profile["tables"] for run in _runs(profile, table) if (times := _run(results, run))
    }
    if not run_times:
        raise DataError(f"{results}: no benchmark files of runs; run the workflow first (snakemake --cores all)")
    searches = ["", *_by_search(results)] if timed_searches(results) else []
    return "\n".join([*_by_table(profile, run_times), "", *_by_method(run_times), *searches]) + "\n"


def _runs(profile: Profile, table: str) -> list[Run]:
    """Runs of a table, replicates included."""
    return with_replicates(profile, runs_of(profile, table))


def _run(results: Path, run: Run) -> dict[str, float]:
    """Step → seconds of all its jobs together; empty if a step has no benchmark file."""
    folder = results / "runs" / run.path / "logs"
    seconds = {step: [_seconds(file) for file in sorted(folder.glob(f"{step}*.json"))] for step in STEPS}
    return {step: sum(times) for step, times in seconds.items()} if all(seconds.values()) else {}


def _seconds(file: Path) -> float:
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: not a benchmark file of qdit; delete it and run the job again") from None


def _by_table(profile: Profile, run_times: dict[Run, dict[str, float]]) -> Iterable[str]:
    yield "| table | runs | quantize (s) | sample (s) |"
    yield "|---|---:|---:|---:|"
    for table in profile["tables"]:
        runs = [run for run in _runs(profile, table) if run in run_times]
        sums = [sum(run_times[run][step] for run in runs) for step in STEPS]
        yield f"| {table} | {len(runs)} | {sums[0]:.0f} | {sums[1]:.0f} |"
    sums = [sum(times[step] for times in run_times.values()) for step in STEPS]
    yield f"| all, shared runs once | {len(run_times)} | {sums[0]:.0f} | {sums[1]:.0f} |"


def _by_method(run_times: dict[Run, dict[str, float]]) -> Iterable[str]:
    yield "| method | runs | quantize (s, median) | sample (s, median) |"
    yield "|---|---:|---:|---:|"
    for label in dict.fromkeys(run.label for run in run_times):
        times_of_label = [times for run, times in run_times.items() if run.label == label]
        medians = [statistics.median(times[step] for times in times_of_label) for step in STEPS]
        yield f"| {label} | {len(times_of_label)} | {medians[0]:.1f} | {medians[1]:.1f} |"


def _by_search(results: Path) -> Iterable[str]:
    yield "| search | seconds (wall time; other jobs may have run beside it) | workers |"
    yield "|---|---:|---:|"
    for name, seconds, workers in timed_searches(results):
        yield f"| {name} | {seconds:.0f} | {workers} |"
