"""List where a run's numbers come from: versions, machine, commit, and for each row its digests and a command.

The command is `qdit explain`, which checks the files behind the row.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.provenance import commit, machine
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Table, is_measured
from qdit.report.pages.benches import Grid
from qdit.report.render.notes import SHORT

STEPS = ("quantize", "sample")
DEFAULT = "results/mini"
"""The default results folder of `qdit explain`."""


@dataclass(frozen=True)
class Origins:
    """Where numbers come from: `facts` about the whole report, and `rows` about each of its runs."""

    facts: tuple[tuple[str, str], ...]
    rows: Grid


def origins(profile: Mapping[str, Any], results: Path, board: Table) -> Origins:
    """Return where the numbers of all runs of a leaderboard come from."""
    measured = [row for row in board.rows if is_measured(row)]
    where = machine()
    facts = {
        "Profile": str(profile["profile"]),
        "This page was made at commit": f"{commit()} (a plus: files differed from it)",
        "This page was made on": f"{where['processor']}, {where['cores']} cores, {where['system']}",
        "Packages of the runs": _distinct(measured, "packages"),
        "Code digests": "; ".join(f"{step} {_short(measured, f'code_{step}')}" for step in (*STEPS, "evaluate")),
        "Weights sha256": _short(measured, "weights_sha256"),
        "Seed": _distinct(measured, "seed"),
        "Mode and backend": "; ".join(dict.fromkeys(f"{row.get('mode')}, {row.get('backend')}" for row in measured)),
        "The whole run again": "make reproduce",
        "One row, file by file": "qdit explain TABLE ROW; the command of each row is below",
    }
    heads = ("Command that explains the row", "Protocol", "Checkpoint", "Images", "Quantize (s)", "Sample (s)")
    rows = tuple(_row(row, results) for row in measured)
    return Origins(tuple((name, text) for name, text in facts.items() if text), Grid(heads, rows, 3))


def explain_command(row: Row, results: Path) -> str:
    """Write the `qdit explain` command for a row."""
    words = ["qdit", "explain", str(row["tables"]).split()[0], run_path(row)]
    return shlex.join(words if _shown(results) == DEFAULT else [*words, "--results", _shown(results)])


def run_path(row: Row) -> str:
    """Write the path of a row's run: `setting/form/label/bits-scope`."""
    return str(row["key"].folder(Path()).relative_to("runs").as_posix())


def _row(row: Row, results: Path) -> tuple[str, ...]:
    return (
        explain_command(row, results),
        *(str(row.get(f"{name}_sha256") or "–")[:SHORT] for name in ("protocol", "checkpoint")),
        str(row.get("images") or "–"),
        *(_seconds(row["key"].folder(results) / "logs", step) for step in STEPS),
    )


def _seconds(logs: Path, step: str) -> str:
    """Seconds of all jobs of a step, from their benchmark files."""
    try:
        times = [float(json.loads(file.read_text("utf-8"))["seconds"]) for file in sorted(logs.glob(f"{step}*.json"))]
    except (OSError, KeyError, TypeError, ValueError):
        return "–"
    return f"{sum(times):.1f}" if times else "–"


def _distinct(rows: list[Row], name: str) -> str:
    texts = dict.fromkeys(str(row[name]) for row in rows if row.get(name) is not None)
    return "; ".join(text.replace(" ", ", ").replace("=", " ") for text in texts)


def _short(rows: list[Row], name: str) -> str:
    return ", ".join(dict.fromkeys(str(row[name])[:SHORT] for row in rows if row.get(name)))


def _shown(results: Path) -> str:
    """The results folder relative to the repository: its last two names."""
    return Path(*results.resolve().parts[-2:]).as_posix()
