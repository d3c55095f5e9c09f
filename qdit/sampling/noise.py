"""Noise and labels of images by index, so that every method, batch size and shard sees the same ones."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qdit.core.seeds import Purpose, generator, normal
from qdit.sampling.protocol import LabelRule


def initial_noise(shape: tuple[int, ...], seed: int, images: Iterable[int]) -> Tensor:
    """(N, *shape) standard normal; row i depends only on (seed, image index)."""
    return torch.stack([normal(shape, seed, Purpose.INITIAL_NOISE, image) for image in images])


def step_noise(shape: tuple[int, ...], seed: int, images: Iterable[int], step: int) -> Tensor:
    """(N, *shape) noise of one DDPM step; row i depends only on (seed, image index, step)."""
    return torch.stack([normal(shape, seed, Purpose.STEP_NOISE, image, step) for image in images])


def labels(classes: int, seed: int, images: Iterable[int], rule: LabelRule = "random") -> Tensor:
    """(N,) labels; that of image i depends only on the seed and on i.

    `random` labels are independent and uniform, as in DiT's sampling script. `balanced` labels repeat the list of
    classes. So every class has the same number of images, as in PTQ4DiT's script, or one more or less.
    """
    if rule == "balanced":
        return torch.tensor([image % classes for image in images])
    return torch.tensor([int(generator(seed, Purpose.LABEL, image).integers(classes)) for image in images])
