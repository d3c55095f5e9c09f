"""Scores or features of single images, computed by networks (*judges*). This module loads no torch.

A *judge* is a network that looks at one image, with its prompt if it reads text. `qdit judge` writes a file for each
judge beside the samples. `qdit evaluate` reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from qdit.core.errors import ConfigError, DataError, did_you_mean
from qdit.core.files import load_arrays, parse_json, save_arrays
from qdit.metrics.perceptual_file import digest_of_folder
from qdit.metrics.statistics import Moments

JUDGES = {
    "clip": "qdit.metrics.judge_clip",
    "dino": "qdit.metrics.judge_dino",
    "image-reward": "qdit.metrics.judge_reward",
}
"""Judge → module whose `load(files, device)` gives a function (images, prompts) → scores (N,) or features (N, d)."""
FILES: Mapping[str, tuple[str, ...]] = {
    "clip": ("weights", "vocabulary"),
    "dino": ("weights",),
    "image-reward": ("weights", "vocabulary"),
}
"""Judge → names of the files that it needs."""
READS_PROMPTS = ("clip", "image-reward")
FEATURES = ("dino",)
"""Judges that give features. Their distance to a reference is a metric."""


@dataclass(frozen=True)
class JudgeOrigin:
    """The judge, the sha256 of each of its files, the digest of the images that it saw, and the digest of its code."""

    judge: str
    files: Mapping[str, str]
    samples: str
    code: str


@dataclass(frozen=True)
class Judged:
    """What the judges say about a run's images, by judge: scores (N,) or features (N, d).

    `fp_features` are those of the full-precision images, `references` the moments of real images.
    """

    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    fp_features: Mapping[str, np.ndarray] = field(default_factory=dict)
    references: Mapping[str, Moments] = field(default_factory=dict)


def require_judge(name: str) -> str:
    """Return the name of a judge unchanged; ConfigError for an unknown name."""
    if name not in JUDGES:
        raise ConfigError(f"judge {name!r}: allowed are {', '.join(JUDGES)}{did_you_mean(name, JUDGES)}")
    return name


def judged_file(folder: Path, judge: str) -> Path:
    """Path of the file with a judge's values, in the folder of the samples."""
    return folder / f"judged-{judge}.npz"


def write_judged(path: Path, values: np.ndarray, origin: JudgeOrigin) -> None:
    """Write the scores (N,) or features (N, d) that a judge gave to a run's images, with their origin."""
    save_arrays(path, {"values": values, "origin": np.array(json.dumps(asdict(origin), sort_keys=True))})


def read_judged(path: Path, *, samples: Path, images: int, judge: str) -> tuple[np.ndarray, JudgeOrigin] | None:
    """Read a judge's values of these images, and their origin. None for a file without values (images without prompts).

    DataError for the values of other samples or of another judge.
    """
    again = f"run `qdit judge {samples} --judge {judge}` again"
    if not path.is_file():
        raise DataError(f"{path}: no such file; {again}")
    arrays = load_arrays(path)
    if not arrays:
        return None
    try:
        values, origin = arrays["values"], JudgeOrigin(**parse_json(str(arrays["origin"])))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: not the values of a judge; {again}") from None
    if origin.judge != judge or origin.samples != digest_of_folder(samples, images):
        raise DataError(f"{path}: is not of {judge} and the images in {samples}; {again}")
    dimensions = 2 if judge in FEATURES else 1
    if len(values) != images or values.ndim != dimensions or not np.isfinite(values).all():
        raise DataError(f"{path}: holds values {values.shape}, expected are finite ones of {images} images; {again}")
    return np.asarray(values, np.float64), origin
