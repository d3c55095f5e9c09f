"""Intervals from resampled values, and the file that keeps those of a run: `bootstrap.npz` beside its metrics.json.

Every run of the same number of images is resampled in the same way, so the values of two runs are paired: the i-th of
one and the i-th of the other saw the same images. What is computed from them elementwise has an interval too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, save_arrays
from qdit.core.metrics import METRICS

LEVEL = 0.95
FILE = "bootstrap.npz"
PAIRING = "pairing"
"""Array of the file that says how was resampled; only values of equal pairings may be compared elementwise."""


@dataclass(frozen=True)
class Replicates:
    """Resampled values (B,) of each metric of a run, and how they were drawn."""

    values: Mapping[str, np.ndarray]
    pairing: str


def centred(metric: str, value: float, resampled: np.ndarray) -> np.ndarray:
    """Resampled values (B,) of a metric, shifted so that their mean is the measured value; of means as they are.

    A distance is never negative, so resampling inflates it, by about as much as having few images does. The shift takes
    that out; what is left is how much the value changes from one set of images of this size to the next. A mean over
    images has no such bias, and often few distinct values, which must stay what they are.
    """
    values = np.asarray(resampled, np.float64)
    return values if metric in METRICS and METRICS[metric].mean else values - values.mean() + value


def interval(values: np.ndarray, *, level: float = LEVEL) -> tuple[float, float]:
    """Central interval that holds `level` of the values (B,)."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def write_replicates(folder: Path, replicates: Replicates) -> None:
    """Write the file of a run; a run that has none (it failed) gets one without values."""
    save_arrays(folder / FILE, {**replicates.values, PAIRING: np.array(replicates.pairing)})


def read_replicates(folder: Path) -> Replicates | None:
    """The resampled values of a run; None if its folder has no file of them, or one without values."""
    path = folder / FILE
    if not path.is_file():
        return None
    arrays = load_arrays(path)
    pairing = str(arrays.pop(PAIRING, ""))
    if any(values.ndim != 1 or not np.isfinite(values).all() for values in arrays.values()) or not pairing:
        raise DataError(f"{path}: not resampled values of a run; run `qdit evaluate` again")
    return Replicates(arrays, pairing) if arrays else None
