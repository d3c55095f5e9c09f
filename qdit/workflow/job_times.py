"""Read how long a finished job took, from the benchmark file in its folder of logs."""

import math
from pathlib import Path

from qdit.core.errors import QditError
from qdit.core.files import read_json


def seconds_in(file: Path) -> float:
    """Return the seconds of a benchmark file; 0 for a file that is damaged or has no such number.

    Estimates leave out such a job. One damaged file of an old run must not stop a plan.
    """
    try:
        seconds = float(read_json(file)["seconds"])
    except (QditError, OSError, KeyError, TypeError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
