"""Read the speed.json of a run: bytes in memory, images per CPU second, and speed relative to full precision, by mode.

Speeds differ from run to run, so metrics.json does not hold them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import QditError
from qdit.core.files import read_json
from qdit.core.run import INTEGER, SIMULATE, TOOL, Run
from qdit.report.data.metrics_json import Row

FILE = "speed.json"
OVER = "over_full_precision"
COLUMNS = (
    *("disk_mb", "memory_mb", "memory_real_mb"),
    *("over_fp_simulated", "over_fp_real", "speed_simulated", "speed_real"),
)
"""Columns of a table of tools: size on disk, and what speed.json gives."""


def read_speed(results: Path, run: Run) -> Mapping[str, Any] | None:
    """Read the speed.json of a run; None if it is missing or damaged: if it lacks something that a table shows."""
    path = run.folder(results) / FILE
    try:
        content = read_json(path) if path.is_file() else None
        return content if content is not None and is_whole(content) else None
    except (QditError, KeyError, TypeError, AttributeError):
        return None


def is_whole(content: Mapping[str, Any]) -> bool:
    """Return whether all cells of a speed.json are numbers or missing. KeyError or TypeError without the machine."""
    measured_on(content)
    cells = speed_cells(content)
    numbers = [value for name, value in cells.items() if name != "why_not_integer" and value is not None]
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def speed_cells(content: Mapping[str, Any] | None) -> Row:
    """Return the cells of a row about memory and speed, once in simulated mode and once for real.

    For real means: in integer mode, or as the tool computes.
    """
    modes = {} if content is None else content["modes"]
    simulated = modes.get(SIMULATE, {})
    real = modes.get(TOOL) or modes.get(INTEGER, {})
    return {
        "memory_mb": simulated.get("memory_mb"),
        "memory_real_mb": real.get("memory_mb"),
        "over_fp_simulated": simulated.get(OVER),
        "over_fp_real": real.get(OVER),
        "speed_simulated": simulated.get("images_per_second"),
        "speed_real": real.get("images_per_second"),
        "why_not_integer": modes.get(INTEGER, {}).get("why"),
        "float_mb": real.get("float_mb"),
    }


def measured_on(content: Mapping[str, Any]) -> str:
    """Write where a speed was measured: processor, threads, batch size, sampling steps."""
    machine, threads = content["machine"], content["threads"]
    count = "1 thread" if threads == 1 else f"{threads} threads"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {count}; batches of {content['batch']} images,"
        f" {content['steps']} steps"
    )
