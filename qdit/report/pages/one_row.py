"""Write the last lines of `qdit run --row "table2 q-dit w4a8"`: printed numbers beside ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdit.core.metrics import METRICS, compared
from qdit.core.run import Run
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import is_measured, is_miniature
from qdit.report.tables.kinds import load_table


def beside_published(profile: Mapping[str, Any], table: str, runs: Sequence[Run], results: Path) -> str:
    """Write a small text table: for each run the printed numbers, if the paper has them, and our numbers.

    A metric is left out if no line has a number. A run without a result gives the reason.
    """
    by_run: dict[Run, Row] = {}
    for row in load_table(profile, table, results).rows:  # a table repeats full precision in its blocks
        if row.get("key") in runs:  # a row that is only printed has no run
            by_run.setdefault(row["key"], row)
    rows = list(by_run.values())
    names = [name for name in compared() if any(_has(row, name) for row in rows)]
    other = "; the printed ones are of other models and data" if is_miniature(profile) else ""
    title = f"{table}: numbers that the paper prints, and ours{other}"
    head = ["", "", *(METRICS[name].title for name in names)]
    lines = [head]
    for row in rows:
        label = f"{row['name']} {_bits(row)}"
        printed = [row.get(f"published_{name}") for name in names]
        is_printed = any(value is not None for value in printed)
        lines.append([label, "printed", *map(_number, printed)] if is_printed else [label, "not printed"])
        ours = [row.get(name) for name in names]
        lines.append(["", "here", *map(_number, ours)] if is_measured(row) else ["", f"here: {row['state']}"])
    widths = [max((len(line[at]) for line in lines if len(line) > at), default=0) for at in range(len(head))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)) for line in lines]
    return "\n".join([title, *(text.rstrip() for text in texts)])


def _has(row: Row, name: str) -> bool:
    return row.get(name) is not None or row.get(f"published_{name}") is not None


def _bits(row: Row) -> str:
    return f"W{row['key'].weight_bits}A{row['key'].activation_bits}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
