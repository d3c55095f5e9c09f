"""The record of a benchmark: JSON with machine, commit and command, and the printed text."""

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
    """A record of `bench`: provenance, the load of the machine around it, and what was measured."""
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
    """Processes that want to run, averaged over a minute: above 1 the machine was shared while a benchmark ran."""
    return os.getloadavg()[0]


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record."""
    write_json(path, content)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; DataError if it is none."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or "bench" not in content:
        raise DataError(f"{path}: not a record of `qdit bench`; measure again")
    return content


def heading(content: dict[str, Any]) -> list[str]:
    """Machine and load of a measurement, in one line."""
    where, around = content["machine"], content["load"]
    return [
        f"{content['command']} · commit {content['commit']}",
        f"{where['processor']}, {where['cores']} cores, backend {content['backend']}; one thread, CPU time;"
        f" load average {around['before']:.1f} before, {around['after']:.1f} after",
    ]


def verdicts(judged: list[Judged], *, style: str = "simple") -> str:
    """Table of goals: our figure, must, ambitious, verdict."""
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
    """What falls short, or that nothing does."""
    if not judged:
        return []
    lines = shortfall(judged)
    return ["", "What falls short:", *(f"  {line}" for line in lines)] if lines else ["", "Nothing falls short."]


def judged_of(content: dict[str, Any]) -> list[Judged]:
    """The verdicts that a record holds."""
    return [Judged.of_dict(entry) for entry in content["goals"]]


def single_thread() -> None:
    """One thread of torch: all figures are of one core."""
    torch.set_num_threads(1)
