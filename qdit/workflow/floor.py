"""Compute the floor of a run: the seconds that its floating-point operations need at the processor's float32 rate.

Divide the time of a run by its floor: this ratio can be compared between machines. The operations of the network count
(`qdit.workflow.cost`), in float32. The extraction of features, evaluation and rendering do not count. The floors of two
rules are rough: for a search that drops genomes early the operations are an upper bound, and for methods that search
scales they are a lower bound.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from qdit.core.errors import DataError
from qdit.core.provenance import processor
from qdit.kernels import dense
from qdit.workflow.cost import Speed, jobs_of
from qdit.workflow.profile import Profile

RULES = {"calibrate": "calibrate/*.log.json", "search": "*.benchmark.json", "quantize": "quantize.json"}
RULES |= {"sample": "sample-*.json"}
"""Rule → the benchmark files of its jobs, anywhere below a results folder."""

SIZE = 1024
"""Rows and columns of the matrix product that is timed; it keeps a core's floating-point units busy."""


@dataclass(frozen=True)
class Spent:
    """The jobs of a rule: their number, their operations, and number and processor seconds of the finished jobs."""

    jobs: int
    flops: float
    finished: int
    seconds: float


def float32_rate(repeats: int = 15, *, clock: Callable[[], float] = time.process_time) -> float:
    """Measure the floating-point operations per second of one core, with the matrix product that linear layers use.

    The fastest of `repeats` + 1 products counts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            linear, x = dense.DenseLinear(torch.ones(SIZE, SIZE), None), torch.ones(SIZE, SIZE)
            fastest = float("inf")
            for _ in range(repeats + 1):
                begin = clock()
                linear(x)
                fastest = min(fastest, max(clock() - begin, 1e-9))
    finally:
        torch.set_num_threads(threads)
    return 2 * SIZE**3 / fastest


def spent_by_rule(profile: Profile, results: Path) -> dict[str, Spent]:
    """Return rule → its jobs in the default tables, with the time of its finished jobs in `results`."""
    counts, flops = Counter[str](), defaultdict[str, float](float)
    for job in jobs_of(profile, Speed(1.0, "operations")):
        counts[job.rule] += 1
        flops[job.rule] += job.seconds
    jobs_by_rule = {}
    for rule, pattern in RULES.items():
        seconds = [processor_seconds(file) for file in sorted(results.rglob(pattern))]
        jobs_by_rule[rule] = Spent(counts[rule], flops[rule], len(seconds), sum(seconds))
    return jobs_by_rule


def processor_seconds(file: Path) -> float:
    """Read the processor seconds that a job recorded. DataError for a file of another kind."""
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["processor_seconds"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: not a benchmark file of qdit; delete it and run the job again") from None


def floor_text(profile: Profile, results: Path, rate: float, cores: int) -> str:
    """Write the table of `qdit bench floor`. A rule is compared with its floor only if all of its jobs are finished."""
    jobs_by_rule = spent_by_rule(profile, results)
    lines = [
        f"{processor()}, {dense.backend()}: {rate / 1e9:.0f} GFLOP/s of float32 a core, measured now",
        "",
        f"{'rule':<10} {'jobs':>5} {'GFLOP':>9} {'floor, core-s':>14} {'took, core-s':>13} {'ratio':>6}",
    ]
    for rule, of_rule in jobs_by_rule.items():
        lines.append(
            f"{rule:<10} {of_rule.jobs:>5} {of_rule.flops / 1e9:>9.0f} {of_rule.flops / rate:>14.0f}"
            + took(of_rule, rate)
        )
    flops, complete = (
        sum(of_rule.flops for of_rule in jobs_by_rule.values()),
        all(map(is_complete, jobs_by_rule.values())),
    )
    lines += ["", f"Floor of all on {cores} cores: {flops / rate / cores / 60:.1f} minutes."]
    if complete:
        seconds = sum(of_rule.seconds for of_rule in jobs_by_rule.values())
        lines.append(
            f"These jobs took {seconds / cores / 60:.1f} minutes of {cores} cores: {seconds * rate / flops:.2f} times"
            " the floor."
        )
    else:
        missing = sum(of_rule.jobs - of_rule.finished for of_rule in jobs_by_rule.values())
        lines.append(f"No ratio for all: {results} lacks {missing} of these jobs; snakemake --cores all makes them.")
    return "\n".join(lines) + "\n"


def is_complete(of_rule: Spent) -> bool:
    """Return whether all jobs of a rule in the default tables are finished."""
    return of_rule.finished >= of_rule.jobs


def took(of_rule: Spent, rate: float) -> str:
    """Write the last two columns of a rule: its measured time, and this time divided by the floor."""
    if not is_complete(of_rule):
        return f" {f'{of_rule.finished} of {of_rule.jobs} done':>20}"
    return f" {of_rule.seconds:>13.0f} {of_rule.seconds * rate / of_rule.flops:>6.2f}"
