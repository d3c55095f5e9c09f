"""Random tensors and torch generators of the streams of `qdit.core.streams`."""

import numpy as np
import torch

from qdit.core.streams import Purpose, derive_seed, generator

__all__ = ["Purpose", "derive_seed", "generator", "normal", "torch_generator"]


def normal(shape: tuple[int, ...], root_seed: int, purpose: Purpose, *indices: int) -> torch.Tensor:
    """Float32 tensor of standard normal numbers from one stream."""
    values = generator(root_seed, purpose, *indices).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values)


def torch_generator(root_seed: int, purpose: Purpose, *indices: int) -> torch.Generator:
    """A private CPU torch generator, for training code that uses torch's own sampling functions."""
    return torch.Generator().manual_seed(derive_seed(root_seed, purpose, *indices) % 2**63)
