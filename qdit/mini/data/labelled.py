"""Grey images with their classes, as every image data set of the miniatures gives them."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Part = Literal["train", "held_out", "all"]
"""Parts of a data set. No model sees a held-out image in training."""


@dataclass(frozen=True)
class LabelledImages:
    """Grey images (N, 1, L, L) float32 in [−1, 1], and their labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)
