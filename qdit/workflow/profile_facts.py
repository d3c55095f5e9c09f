"""What follows from a profile, as it is read or as its models: which models make clips, how many, full precision."""

import json
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT
from qdit.core.run import FULL_PRECISION_METHOD
from qdit.workflow.profile_fields import Keyed

VIDEO_KEYS: dict[str, tuple[str, ...]] = {"instruments": (), "text_encoder": ("vae",)}
"""What makes a model a video model → what it needs besides: one of pixels that instruments score, or one of latents."""
DIGITS_REFERENCES = ("digits", "digits-16")
"""References that are made of scikit-learn's digits; others are files under `references`."""


def is_video(profile: Keyed, setting: str) -> bool:
    """Whether a setting makes clips."""
    return is_video_model(profile["models"][profile["settings"][setting]["model"]])


def is_video_model(model: Keyed) -> bool:
    """Whether a model makes clips: pixels that instruments score, or latents whose texts an encoder gives."""
    return any(name in model for name in VIDEO_KEYS)


def is_full(profile: Keyed, label: str) -> bool:
    """Whether a label is full precision."""
    entry = profile["methods"].get(label)
    return entry is not None and bool(entry["method"] == FULL_PRECISION_METHOD)


def full_precision_label(profile: Keyed) -> str:
    """Label of the method `fp`, with which every run is compared image by image."""
    for label, entry in profile["methods"].items():
        if entry["method"] == FULL_PRECISION_METHOD:
            return str(label)
    raise ConfigError(
        "methods: no entry with method fp, found none; add `fp: {method: fp}`, all runs are compared to it"
    )


def clips_of(profile: Keyed) -> int:
    """Clips of a video run: so many of each distinct prompt of the suite, a file of the repository or a fetched one."""
    video = profile["video"]
    expected, path = video.get("prompts"), Path(video["suite"])
    there = next((file for file in (path, ROOT / path) if file.is_file()), None)
    if there is None and expected is not None:
        return int(expected) * int(video["clips"])
    try:
        prompts: Any = json.loads((there or path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(
            f"video.suite: {path} cannot be read ({' '.join(str(problem).split())}); qdit video suite writes one"
        ) from None
    if not isinstance(prompts, list) or not prompts:
        raise ConfigError(f"video.suite: {path} holds no list of prompts; qdit video suite writes one")
    distinct = len({json.dumps(row.get("prompt_en") if isinstance(row, dict) else row) for row in prompts})
    if expected not in (None, distinct):
        raise ConfigError(f"video.prompts: found {expected}, {path} holds {distinct} distinct ones; correct either")
    return distinct * int(video["clips"])
