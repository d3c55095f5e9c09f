"""The digits of the mini profile: scikit-learn's 1,797 handwritten digits, 8×8 pixels, or magnified to 16×16.

A fixed permutation divides them: 1,437 are for training and 360 are held out. All magnified variants of a held-out
digit are held out too.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qdit.core.seeds import Purpose, generator
from qdit.mini.data.labelled import LabelledImages, Part

SPLIT_SEED = 0
HELD_OUT = 360
UPSAMPLED_SIZE = 16
"""Side of an upsampled digit in pixels."""
GLYPH_SIZE = 14
"""Side in pixels to which the 8×8 digit is magnified, so that no stroke is cut off when it moves."""
ROTATION = 10.0
"""Largest rotation of a variant in degrees, either way."""
SHIFT = 1.0
"""Largest shift of a variant in pixels of the 16×16 image, along each axis, either way."""


def load(split: Part) -> LabelledImages:
    """One part (`train`, `held_out` or `all`) of the 8×8 digits, in a fixed order."""
    from sklearn.datasets import load_digits  # takes seconds to import, and most steps need only `to_uint8`

    data = load_digits()
    order = generator(SPLIT_SEED, Purpose.SPLIT).permutation(len(data.target))
    indices = {"all": order, "held_out": order[:HELD_OUT], "train": order[HELD_OUT:]}[split]
    images = data.images[indices].astype(np.float32)[:, None] / 8 - 1
    return LabelledImages(torch.from_numpy(images), torch.from_numpy(data.target[indices].astype(np.int64)))


def load_upsampled(split: Part, *, copies: int = 1) -> LabelledImages:
    """One part of the digits as (copies · N, 1, 16, 16): each digit is magnified, turned a little and shifted a little.

    The order is: all N digits once, then all N digits again, `copies` times. Variant c of a digit is always the same
    image.
    """
    digits = load(split)
    images = [upsample(digits.images, *motion(split, copy)) for copy in range(copies)]
    return LabelledImages(torch.cat(images), digits.labels.repeat(copies))


def motion(split: Part, copy: int) -> tuple[Tensor, Tensor]:
    """How variant `copy` of each digit is moved: angle (N,) in radians, and shift (N, 2) in pixels, across and down."""
    of_digit = generator(SPLIT_SEED, Purpose.VARIANT, copy).uniform(-1, 1, (len(load("all")), 3))
    indices = {"all": of_digit, "held_out": of_digit[:HELD_OUT], "train": of_digit[HELD_OUT:]}[split]
    moves = torch.from_numpy(indices).float()
    return math.radians(ROTATION) * moves[:, 0], SHIFT * moves[:, 1:]


def upsample(images: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Magnify images (N, 1, 8, 8) to (N, 1, 16, 16), turn them by angles (N,) and shift them by pixels (N, 2).

    One bicubic resampling does all three. Pixels from outside the image are −1. Values beyond [−1, 1] are clamped.
    """
    zoom = UPSAMPLED_SIZE / GLYPH_SIZE
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    across, down = (shift * (2 / UPSAMPLED_SIZE)).unbind(dim=1)
    transform = torch.stack([cosine, -sine, across, sine, cosine, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(transform, [len(images), 1, UPSAMPLED_SIZE, UPSAMPLED_SIZE], align_corners=False)
    ink = F.grid_sample(images + 1, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return (ink - 1).clamp(-1, 1)
