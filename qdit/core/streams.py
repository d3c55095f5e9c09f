"""Random seeds: the seed of every random stream is a hash of (root seed, purpose, indices).

No code of this package uses a global generator. So the noise of image i is the same for every method, batch size, shard
layout and number of devices.

**Replicates.** A replicate of a row repeats the random draws of its method with other seeds; the draws of its images
stay. Its root seed is `replicate_seed`. Commands that draw calibration data or search take it as their seed. Inside the
context `replicate_draws`, the streams `DRAWN_BY_METHODS` start from it. Replicate 0 has the seeds of a row without
replicates.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Purpose(StrEnum):
    """What a random stream is used for. Streams of different purposes are independent."""

    INITIAL_NOISE = "initial-noise"
    STEP_NOISE = "step-noise"
    LABEL = "label"
    CALIBRATION_NOISE = "calibration-noise"
    CALIBRATION_LABEL = "calibration-label"
    CALIBRATION_STEP = "calibration-step"
    TRAINING = "training"
    SALIENT_FORM = "salient-form"
    SPLIT = "split"
    VARIANT = "variant"
    RECONSTRUCTION = "reconstruction"
    PROBE = "probe"
    SEARCH = "search"
    HELD_OUT = "held-out"
    REPLICATE = "replicate"
    COVERAGE = "coverage"


DRAWN_BY_METHODS = frozenset({Purpose.VARIANT, Purpose.RECONSTRUCTION, Purpose.PROBE})
"""Streams that methods draw from while they quantize: random signs and rows, batches of reconstruction, probes."""


@dataclass
class ReplicateDraws:
    """The number of a replicate, and the purposes of all streams that were used while it was active."""

    replicate: int
    streams: set[Purpose] = field(default_factory=set)


_entered: list[ReplicateDraws] = []
"""The replicate that this process quantizes, if any. All threads share it."""


def replicate_seed(root_seed: int, replicate: int) -> int:
    """Root seed (below 2⁶²) for the streams of a replicate. Replicate 0 has the root seed itself."""
    return derive_seed(root_seed, Purpose.REPLICATE, replicate) % 2**62 if replicate else root_seed


@contextlib.contextmanager
def replicate_draws(replicate: int) -> Iterator[ReplicateDraws]:
    """Context manager: inside it, the random streams of methods are those of this replicate.

    It yields an object that collects which streams were used.
    """
    draws = ReplicateDraws(replicate)
    _entered.append(draws)
    try:
        yield draws
    finally:
        _entered.remove(draws)


def drawn_by_replicate() -> dict[str, Any]:
    """Number of the active replicate and the names of the streams that it used, for a record.

    Empty outside `replicate_draws`, for replicate 0, and if no stream was used.
    """
    if not _entered or not _entered[-1].replicate or not _entered[-1].streams:
        return {}
    return {"replicate": _entered[-1].replicate, "streams": sorted(_entered[-1].streams)}


def derive_seed(root_seed: int, purpose: Purpose, *indices: int) -> int:
    """128-bit seed of one random stream. Equal arguments give the same seed on every machine.

    Inside `replicate_draws` the streams of methods get the seed of that replicate.
    """
    if _entered and purpose in DRAWN_BY_METHODS:
        _entered[-1].streams.add(purpose)
        root_seed = replicate_seed(root_seed, _entered[-1].replicate)
    text = "/".join([str(root_seed), purpose.value, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(root_seed: int, purpose: Purpose, *indices: int) -> np.random.Generator:
    """A new NumPy generator (Philox) for one random stream."""
    return np.random.Generator(np.random.Philox(derive_seed(root_seed, purpose, *indices)))
