"""Random seeds: every random stream is a hash of (root seed, purpose, indices).

No code of this package uses a global generator. So the noise of image i is the same for every method, batch size, shard
layout and number of devices.
"""

import hashlib
from enum import StrEnum

import numpy as np
import torch


class Purpose(StrEnum):
    """Purposes of random streams. Streams of different purposes are independent."""

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


def derive_seed(root_seed: int, purpose: Purpose, *indices: int) -> int:
    """128-bit seed of one stream. Equal arguments give the same seed on every machine."""
    text = "/".join([str(root_seed), purpose.value, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(root_seed: int, purpose: Purpose, *indices: int) -> np.random.Generator:
    """NumPy generator (Philox) of one stream."""
    return np.random.Generator(np.random.Philox(derive_seed(root_seed, purpose, *indices)))


def normal(shape: tuple[int, ...], root_seed: int, purpose: Purpose, *indices: int) -> torch.Tensor:
    """Float32 tensor of standard normal numbers from one stream."""
    values = generator(root_seed, purpose, *indices).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values)


def torch_generator(root_seed: int, purpose: Purpose, *indices: int) -> torch.Generator:
    """A private CPU torch generator, for training code that uses torch's own sampling functions."""
    return torch.Generator().manual_seed(derive_seed(root_seed, purpose, *indices) % 2**63)
