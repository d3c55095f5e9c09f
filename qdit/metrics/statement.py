"""The statement of imported samples: the protocol by which they were made, as their files give it.

A folder of PNGs or MP4s has the statement in `protocol.json`, an npz in its array `protocol` (the same JSON as text).
It holds sampler, steps, cfg_scale and seed. The author of the statement claims that image i was made from the noise and
the label that the suite derives from this seed and the index i. The suite cannot check this claim. It checks only that
the protocol is that of full precision. Samples without a statement have no paired metrics.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import parse_json, read_json
from qdit.core.npz import member_names, read_member
from qdit.core.run import recorded_sampler

FILE, MEMBER = "protocol.json", "protocol"
FACTS = ("sampler", "steps", "cfg_scale", "seed")
"""Keys that a statement must have. Other keys are allowed."""
EXAMPLE = '{"sampler": "ddim", "steps": 20, "cfg_scale": 1.0, "seed": 0}'


def stated_protocol(path: Path) -> Mapping[str, Any] | None:
    """Read the protocol that a folder or an npz states; None without a statement.

    DataError for an incomplete statement.
    """
    where = path / FILE if path.is_dir() else path
    if path.is_dir():
        if not where.is_file():
            return None
        content = read_json(where)
    else:
        if MEMBER not in member_names(path):
            return None
        member = read_member(path, MEMBER)
        if member.dtype.kind != "U" or member.shape != ():
            raise DataError(
                f"{path}: protocol is {member.dtype} {member.shape}, allowed is JSON as one text: {EXAMPLE}"
            )
        try:
            content = parse_json(str(member))
        except ValueError as problem:
            raise DataError(f"{path}: protocol is not JSON ({problem}); write {EXAMPLE}") from None
    if not isinstance(content, dict) or (missing := [fact for fact in FACTS if fact not in content]):
        lacks = ", ".join(missing) if isinstance(content, dict) else "everything"
        raise DataError(f"{where}: states a protocol without {lacks}; write {EXAMPLE}, or leave it out")
    return {fact: content[fact] for fact in FACTS}


def statement_of(protocol: Mapping[str, Any]) -> dict[str, Any] | None:
    """The statement to write beside samples of ours with this protocol; None if the protocol lacks a required value."""
    return {fact: protocol[fact] for fact in FACTS} if set(FACTS) <= protocol.keys() else None


def require_same(path: Path, stated: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
    """Raise DataError unless a statement agrees with the protocol of the full-precision samples."""
    for fact, value in stated.items():
        recorded = recorded_sampler(str(value)) if fact == "sampler" else value
        if recorded != protocol.get(fact):
            raise DataError(
                f"{path}: states {fact} {value}, full precision has {protocol.get(fact)}; give samples of that"
                f" protocol, or remove the statement ({FILE}), which leaves the paired metrics out"
            )


def as_member(statement: Mapping[str, Any]) -> np.ndarray:
    """A statement as an array for an npz file."""
    return np.array(json.dumps(dict(statement), sort_keys=True))
