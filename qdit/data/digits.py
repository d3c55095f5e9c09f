"""scikit-learn's 1,797 handwritten digits (8×8, 17 grey levels), the data of the mini profile.

1,437 are for training and 360 are held out, by a fixed permutation.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qdit.seeds import Purpose, generator

SPLIT_SEED = 0
HELD_OUT = 360
UINT8_RULE = "truncate(127.5 x + 128)"
"""How images become bytes; part of every protocol."""


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) float32 in [−1, 1] and labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load(part: Literal["train", "held_out", "all"]) -> Digits:
    """One part of the digits, in a fixed order."""
    from sklearn.datasets import load_digits  # takes seconds to import, and most steps need only `to_uint8`

    data = load_digits()
    order = generator(SPLIT_SEED, Purpose.SPLIT).permutation(len(data.target))
    chosen = {"all": order, "held_out": order[:HELD_OUT], "train": order[HELD_OUT:]}[part]
    images = data.images[chosen].astype(np.float32)[:, None] / 8 - 1
    return Digits(torch.from_numpy(images), torch.from_numpy(data.target[chosen].astype(np.int64)))


def to_uint8(images: Tensor) -> Tensor:
    """[−1, 1] → uint8 by clamp(127.5 x + 128) and truncation, as ADM and DiT write images."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
