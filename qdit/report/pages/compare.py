"""Compare two runs, or two results folders (two versions of the suite), with intervals of the differences."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from tabulate import tabulate

from qdit.core.errors import DataError
from qdit.core.metrics import METRICS, shown_on
from qdit.core.number_text import significant
from qdit.report.data.compare_rows import Difference, difference
from qdit.report.data.metrics_json import Row, read_folder
from qdit.report.render.display import signed

IDENTITY = (
    "setting",
    "form",
    "label",
    "weight_bits",
    "activation_bits",
    "scope",
    "options",
    "mode",
    "backend",
    "images",
)
PROVENANCE = ("protocol_sha256", "weights_sha256", "checkpoint_sha256", "code_quantize", "code_sample", "code_evaluate")
SAME, CHANCE, UNSURE, BETTER, WORSE = "same", "chance", "no interval", "better", "worse"
COLUMNS = ("run", "metric", "a", "b", "difference", "low", "high", "verdict")


@dataclass(frozen=True)
class Compared:
    """One metric of two runs: value `a`, value `b`, the difference b − a, and whether it is more than chance."""

    run: str
    metric: str
    a: float
    b: float
    gap: Difference
    verdict: str


def compare_runs(a: Row, b: Row, name: str, page: Literal["runs", "folders"]) -> list[Compared]:
    """Compare two rows in every metric that the page shows and both rows have.

    If both rows were resampled with the same images, the interval is that of the paired difference.
    """
    compared = []
    for metric in shown_on(page):
        gap = difference(b, a, metric)
        if gap is not None:
            compared.append(Compared(name, metric, a[metric], b[metric], gap, verdict(gap, metric)))
    return compared


def verdict(gap: Difference, metric: str) -> str:
    """Say whether b is `better` or `worse` than a; other words if the interval includes zero or is missing."""
    if gap.value == 0:
        return SAME
    if gap.is_chance is None:
        return UNSURE
    if gap.is_chance:
        return CHANCE
    return BETTER if (gap.value > 0) == (not METRICS[metric].lower_is_better) else WORSE


def compare_text(a: Path, b: Path) -> tuple[str, pd.DataFrame]:
    """Return the text of `qdit compare`, and its numbers as a table with the columns `COLUMNS`.

    Both folders must be runs (with a metrics.json), or both must be results folders (with runs/); else DataError.
    """
    kinds = [_kind(path) for path in (a, b)]
    if kinds[0] != kinds[1]:
        raise DataError(f"{a} is a {kinds[0]}, {b} a {kinds[1]}; compare two of the same kind")
    lines, compared = _two_runs(a, b) if kinds[0] == "run" else _two_folders(a, b)
    rows = [(c.run, c.metric, c.a, c.b, c.gap.value, *(c.gap.interval or (None, None)), c.verdict) for c in compared]
    head = [f"a: {a}", f"b: {b}", "b − a with its 95 % interval (paired bootstrap over images)", ""]
    return "\n".join([*head, *lines]) + "\n", pd.DataFrame(rows, columns=pd.Index(COLUMNS), dtype=object)


def _kind(path: Path) -> str:
    if (path / "metrics.json").is_file():
        return "run"
    if (path / "runs").is_dir():
        return "results folder"
    raise DataError(f"{path}: has neither metrics.json (a run) nor runs/ (a results folder); give one of them")


def _two_runs(a: Path, b: Path) -> tuple[list[str], list[Compared]]:
    first, second = read_folder(a), read_folder(b)
    compared = compare_runs(first, second, str(second["label"]), "runs")
    lines = [
        f"{name}: {first.get(name)} | {second.get(name)}" for name in IDENTITY if first.get(name) != second.get(name)
    ]
    lines += [_doubt(first, second)] if _doubt(first, second) else []
    differing = [name for name in PROVENANCE if first.get(name) != second.get(name)]
    lines.append(f"differ in: {', '.join(differing) or 'nothing'}")
    body = [[METRICS[c.metric].title, *_cells(c)] for c in compared]
    return [*lines, "", str(tabulate(body, ["", "a", "b", "b − a", "95 %", ""], disable_numparse=True))], compared


def _two_folders(a: Path, b: Path) -> tuple[list[str], list[Compared]]:
    runs = [_runs_below(path) for path in (a, b)]
    names = sorted(runs[0] & runs[1])
    compared: list[Compared] = []
    doubts: list[str] = []
    broken: list[str] = []
    for name in names:
        try:
            first, second = (read_folder(path / "runs" / name) for path in (a, b))
        except DataError as problem:
            broken.append(str(problem))
            continue
        compared += compare_runs(first, second, name, "folders")
        if doubt := _doubt(first, second):
            doubts.append(f"{name}: {doubt}")
    counts = Counter((c.metric, c.verdict) for c in compared)
    words = (BETTER, WORSE, CHANCE, SAME, UNSURE)
    summary = [[METRICS[m].title, *(counts[m, word] for word in words)] for m in shown_on("folders")]
    changed = [[c.run, METRICS[c.metric].title, *_cells(c)] for c in compared if c.verdict not in (SAME, CHANCE)]
    lines = [f"{len(names)} runs in both, {len(runs[0] - runs[1])} only in a, {len(runs[1] - runs[0])} only in b", ""]
    lines += [str(tabulate(summary, ["runs of b that are", *words])), ""]
    if changed:
        lines.append(str(tabulate(changed, ["run", "", "a", "b", "b − a", "95 %", ""], disable_numparse=True)))
    return [*lines, *doubts, *broken], compared


def _runs_below(folder: Path) -> set[str]:
    """Runs of a results folder, as paths below runs/."""
    root = folder / "runs"
    return {path.parent.relative_to(root).as_posix() for path in root.glob("*/*/*/*/metrics.json")}


def _doubt(a: Row, b: Row) -> str:
    """A warning if two runs differ in more than their methods; empty otherwise."""
    pairings = [row["resamples"].pairing if row.get("resamples") else None for row in (a, b)]
    if None not in pairings and pairings[0] != pairings[1]:
        return "resampled in different ways (other numbers of images?), so there are no intervals"
    return "" if a["protocol_sha256"] == b["protocol_sha256"] else "protocols differ"


def _cells(c: Compared) -> list[str]:
    style = METRICS[c.metric].write
    limits = "–" if c.gap.interval is None else " … ".join(signed(significant, limit) for limit in c.gap.interval)
    return [style(c.a), style(c.b), signed(significant, c.gap.value), limits, c.verdict]
