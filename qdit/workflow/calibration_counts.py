"""How many noisy samples each set of calibration data holds: by kind, or as a method's entry says it.

An entry may say how many samples its method finds at each step (`calibration: {per-step: 256}`). Such a set is a kind
of its own, `per-step-256`, which entries with the same number share.
"""

import re
from collections.abc import Mapping
from typing import Any

from qdit.workflow.families import IMAGES, family_at

Profile = Mapping[str, Any]
COUNTED = r"per-step-\d+"
"""Pattern of the kinds whose number an entry says."""


def chosen_kind(profile: Profile, setting: str, label: str, kind: str) -> str:
    """The kind of calibration data that a label's method takes in the place of `kind`.

    Numbers of an entry are those of images; all methods of clips share the `calibration` of the profile's `video`.
    """
    other = profile["methods"][label].get("calibration", {}).get(kind, kind)
    if isinstance(other, str):
        return other
    return f"{kind}-{other}" if family_at(profile, setting) is IMAGES else kind


def split_kind(kind: str) -> tuple[str, int | None]:
    """`per-step-256` → (`per-step`, 256): the kind, and its samples at each step where an entry says them."""
    counted = re.fullmatch(COUNTED, kind)
    if counted is None:
        return kind, None
    name, _, number = kind.rpartition("-")
    return name, int(number)


def samples_of(profile: Profile, setting: str, kind: str) -> int:
    """What `qdit calibrate --samples` is given: noisy samples without their unconditional copies.

    Of a counted kind those of all steps; the copies are among the samples that the entry counts.
    """
    name, at_step = split_kind(kind)
    if at_step is None:
        return int(family_at(profile, setting).calibration(profile)[name])
    steps: int = profile["settings"][setting]["steps"]
    return steps * -(-at_step // copies(profile, setting, name))


def copies(profile: Profile, setting: str, kind: str) -> int:
    """Rows of a set for each noisy sample: 2 where an unconditional copy follows it."""
    guided = profile["settings"][setting]["cfg_scale"] > 1
    return 2 if guided and kind not in ("trajectory", "regression") else 1


def rows_of(profile: Profile, setting: str, kind: str) -> int:
    """Rows of a set of calibration data, unconditional copies included."""
    name, _ = split_kind(kind)
    steps = profile["settings"][setting]["steps"] if name == "regression" else 1
    return samples_of(profile, setting, kind) * steps * copies(profile, setting, name)
