"""Record of a benchmark: a JSON file with machine, commit, command and measured values, and its text form."""

import os
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench.goals import Judged, limit, shortfall
from qdit.core.errors import DataError
from qdit.core.files import read_json, write_json
from qdit.core.provenance import commit, machine, packages
from qdit.kernels import dense, library

FORMAT = 1


def record(bench: str, command: str, *, load_before: float, **content: Any) -> dict[str, Any]:
    """Make the record of the benchmark `bench`: machine, commit, command, load before and after, measured values."""
    return {
        "format": FORMAT,
        "bench": bench,
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
        "backend": library.backend_name(),
        "floating_point_backend": dense.backend(),
        "load": {"before": load_before, "after": load()},
        **content,
    }


def load() -> float:
    """Load average: number of processes that want to run, averaged over one minute.

    A value above 1 means that other programs use the machine, too.
    """
    return os.getloadavg()[0]


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record as JSON."""
    write_json(path, content)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record. DataError if the file is not a record."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or "bench" not in content:
        raise DataError(f"{path}: not a record of `qdit bench`; measure again")
    return content


def heading(content: dict[str, Any]) -> list[str]:
    """First lines of a record's text: command, machine and load."""
    machine, load = content["machine"], content["load"]
    return [
        f"{content['command']} · commit {content['commit']}",
        f"{machine['processor']}, {machine['cores']} cores, backend {content['backend']}; one thread, CPU time;"
        f" load average {load['before']:.1f} before, {load['after']:.1f} after",
    ]


def verdicts(judged: list[Judged], *, style: str = "simple") -> str:
    """Format the goals as a table: our value, the required value, the ambitious value, and the verdict."""
    rows = [
        [
            goal.goal.name,
            "–" if goal.value is None else f"{goal.value:.2f}",
            "–" if goal.medians is None else f"{goal.medians:.2f}",
            limit(goal.goal, goal.goal.must),
            limit(goal.goal, goal.goal.ambitious),
            goal.verdict,
        ]
        for goal in judged
    ]
    header = ["goal", "ours", "(medians)", "must", "ambitious", "verdict"]
    return tabulate(rows, header, tablefmt=style, colalign=("left", *["right"] * 4, "left"), disable_numparse=True)


def ending(judged: list[Judged]) -> list[str]:
    """Last lines of a record's text: the missed goals, or a line that says that no goal was missed."""
    if not judged:
        return []
    lines = shortfall(judged)
    return ["", "What falls short:", *(f"  {line}" for line in lines)] if lines else ["", "Nothing falls short."]


def judged_of(content: dict[str, Any]) -> list[Judged]:
    """Goals of a record, with their values and verdicts."""
    return [Judged.of_dict(entry) for entry in content["goals"]]


def single_thread() -> None:
    """Make torch use one thread, because all measured values are for one core."""
    torch.set_num_threads(1)
