"""Random tensors and torch generators, each for one of the random streams of `qdit.core.streams`."""

import numpy as np
import torch

from qdit.core.streams import Purpose, derive_seed, generator

__all__ = ["Purpose", "derive_seed", "generator", "normal", "torch_generator"]


def normal(shape: tuple[int, ...], root_seed: int, purpose: Purpose, *indices: int) -> torch.Tensor:
    """A float32 tensor of standard normal numbers from one random stream (`qdit.core.streams`)."""
    values = generator(root_seed, purpose, *indices).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values)


def torch_generator(root_seed: int, purpose: Purpose, *indices: int) -> torch.Generator:
    """A new torch generator on the CPU for one random stream, for code that uses torch's own sampling functions."""
    return torch.Generator().manual_seed(derive_seed(root_seed, purpose, *indices) % 2**63)
