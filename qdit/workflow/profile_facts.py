"""Derive facts from a profile: the number of clips of a run, the label of full precision.

The profile may be plain data (a mapping) or pydantic models.
"""

import json
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.files import parse_json
from qdit.core.repository import shipped_path
from qdit.core.run import FULL_PRECISION_METHOD, IMPORTED, SIMULATE, TOOL, UNQUANTIZED, Run
from qdit.workflow.profile_fields import Keyed

BUILT_IN_REFERENCES = ("digits", "digits-16")
"""References that are made of scikit-learn's digits; others are files under `references`."""
MINIATURE = "handwritten digits, not ImageNet"
"""What config/mini.yaml says of itself."""
MINIATURES = dict.fromkeys(BUILT_IN_REFERENCES, MINIATURE) | {"fashion-mnist": "photographs of clothes, not ImageNet"}
"""Reference of a small model → what a profile says of itself that has such a model."""


def is_full(profile: Keyed, label: str) -> bool:
    """Return whether a label stands for full precision."""
    entry = profile["methods"].get(label)
    return entry is not None and bool(entry["method"] == FULL_PRECISION_METHOD)


def mode_of(entry: Keyed) -> str:
    """Return the mode of the rows of an entry of `methods`: `tool`, `imported` (images), or `simulate`."""
    if "tool" in entry:
        return TOOL
    return IMPORTED if "images" in entry else SIMULATE


def block_runs(profile: Keyed, block: Keyed) -> list[Run]:
    """Return the runs of a block in the order of its rows: full precision once, then every method at each of the bits.

    Images of another program have rows only at the bits that their entry names.
    """
    full = [label for label in block["methods"] if is_full(profile, label)]
    others = [label for label in block["methods"] if label not in full]
    rows = [(label, UNQUANTIZED) for label in full] + [(label, bits) for bits in block["bits"] for label in others]
    runs = []
    for label, bits in rows:
        entry = profile["methods"].get(label, {})
        if "images" not in entry or bits in entry["images"]:
            runs.append(Run(block["setting"], block["form"], label, bits, block["scope"], mode_of(entry)))
    return runs


def full_precision_label(profile: Keyed) -> str:
    """Return the label of the method `fp`. Every run is compared with it image by image."""
    for label, entry in profile["methods"].items():
        if entry["method"] == FULL_PRECISION_METHOD:
            return str(label)
    raise ConfigError(
        "methods: found no entry with method fp; add `fp: {method: fp}`, because all runs are compared with it"
    )


def clips_of(profile: Keyed) -> int:
    """Return the number of clips of a run: distinct prompts of the prompt suite times clips per prompt.

    The suite is a file of the repository or a download. Before the download, `video.prompts` gives the number of
    prompts. ConfigError if the suite cannot be read, or if its number of prompts differs from `video.prompts`.
    """
    video = profile["video"]
    expected, path = video.get("prompts"), Path(video["suite"])
    suite = shipped_path(path)
    if not suite.is_file() and expected is not None:
        return int(expected) * int(video["clips"])
    try:
        prompts: Any = parse_json(suite.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(
            f"video.suite: {path} cannot be read ({' '.join(str(problem).split())}); qdit video suite writes one"
        ) from None
    if not isinstance(prompts, list) or not prompts:
        raise ConfigError(f"video.suite: {path} does not hold a list of prompts; write one with `qdit video suite`")
    distinct = len({json.dumps(row.get("prompt_en") if isinstance(row, dict) else row) for row in prompts})
    if expected not in (None, distinct):
        raise ConfigError(
            f"video.prompts: found {expected}, {path} holds {distinct} distinct prompts; correct one of the two"
        )
    return distinct * int(video["clips"])
