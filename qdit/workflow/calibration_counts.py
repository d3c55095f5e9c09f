"""Compute the number of noisy samples in each calibration set, from the profile or from a method's entry.

An entry of `methods` can give the number of samples at each step (`calibration: {per-step: 256}`). Such a set has a
kind of its own, `per-step-256`. All entries with the same number share this set.
"""

import re
from collections.abc import Mapping
from typing import Any

from qdit.workflow.families import IMAGES, family_at
from qdit.workflow.profile_pipelines import branches_of

Profile = Mapping[str, Any]
COUNTED = r"per-step-\d+"
"""Pattern of the kinds whose number an entry says."""


def chosen_kind(profile: Profile, setting: str, label: str, kind: str) -> str:
    """Return the kind of calibration data that a label uses in place of `kind`; `kind` itself without a replacement.

    A number of samples in an entry of `methods` holds for images only. All methods of clips share the `calibration` of
    the profile's `video`.
    """
    other = profile["methods"][label].get("calibration", {}).get(kind, kind)
    if isinstance(other, str):
        return other
    return f"{kind}-{other}" if family_at(profile, setting) is IMAGES else kind


def split_kind(kind: str) -> tuple[str, int | None]:
    """Split `per-step-256` into (`per-step`, 256): the kind, and the number of samples at each step, or None."""
    counted = re.fullmatch(COUNTED, kind)
    if counted is None:
        return kind, None
    name, _, number = kind.rpartition("-")
    return name, int(number)


def samples_of(profile: Profile, setting: str, kind: str) -> int:
    """Return the value of `qdit calibrate --samples`: the number of noisy samples, without their unconditional copies.

    An unconditional copy is the same sample without its label. The name of a kind can have a number, as in
    `per-step-256`: the set then has 256 rows at each step, with the copies. The returned value is the number of noisy
    samples at all steps together.
    """
    name, at_step = split_kind(kind)
    if at_step is None:
        return int(family_at(profile, setting).calibration(profile)[name])
    steps: int = profile["settings"][setting]["steps"]
    return steps * -(-at_step // copies(profile, setting, name))


def copies(profile: Profile, setting: str, kind: str) -> int:
    """Return 2 if a copy without label follows each noisy sample in the calibration set (for guidance), else 1."""
    guided = branches_of(profile["settings"][setting]) == 2
    return 2 if guided and kind not in ("trajectory", "regression") else 1


def rows_of(profile: Profile, setting: str, kind: str) -> int:
    """Return the number of rows in a calibration set, with unconditional copies."""
    name, _ = split_kind(kind)
    steps = profile["settings"][setting]["steps"] if name == "regression" else 1
    return samples_of(profile, setting, kind) * steps * copies(profile, setting, name)
