"""Intervals from resampled values. `bootstrap.npz` beside metrics.json keeps the resampled values of a run.

All runs with the same number of images are resampled in the same way. So the values of two runs are paired: value i of
both runs comes from the same image indices. Therefore a difference or ratio of such values, computed value by value,
has an interval too.
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
class Resamples:
    """Values (B,) of each metric of a run on B resamples of its images. `pairing` names how the images were drawn."""

    values: Mapping[str, np.ndarray]
    pairing: str


def centred(metric: str, value: float, resampled: np.ndarray) -> np.ndarray:
    """Resampled values (B,), shifted so that their mean is the measured value. Means over images are not shifted.

    A distance is never negative. So resampling makes it too large, about as much as a small number of images does. The
    shift removes this bias. What remains is how the value changes between sets of images of this size. A mean over
    images has no such bias. It often has few distinct values, which must not change.
    """
    values = np.asarray(resampled, np.float64)
    return values if metric in METRICS and METRICS[metric].mean else values - values.mean() + value


def interval(values: np.ndarray, *, level: float = LEVEL) -> tuple[float, float]:
    """Interval that holds the middle fraction `level` of the values (B,): its low and its high end."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def write_resamples(folder: Path, resamples: Resamples) -> None:
    """Write the resampled values of a run into its folder. For a failed run the file has no values."""
    save_arrays(folder / FILE, {**resamples.values, PAIRING: np.array(resamples.pairing)})


def read_resamples(folder: Path) -> Resamples | None:
    """Read the resampled values in a run's folder; None if there is no file, or a file without values."""
    path = folder / FILE
    if not path.is_file():
        return None
    arrays = load_arrays(path)
    pairing = str(arrays.pop(PAIRING, ""))
    if any(values.ndim != 1 or not np.isfinite(values).all() for values in arrays.values()) or not pairing:
        raise DataError(f"{path}: not resampled values of a run; run `qdit evaluate` again")
    return Resamples(arrays, pairing) if arrays else None
