"""Noise and labels of images by index: they are the same for every method, batch size and shard."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qdit.core.seeds import Purpose, generator, normal
from qdit.sampling.protocol import LabelRule


def initial_noise(shape: tuple[int, ...], seed: int, images: Iterable[int]) -> Tensor:
    """Standard normal start noise (N, *shape) of these images; row i depends only on the seed and the image's index."""
    return torch.stack([normal(shape, seed, Purpose.INITIAL_NOISE, image) for image in images])


def step_noise(shape: tuple[int, ...], seed: int, images: Iterable[int], step: int) -> Tensor:
    """Noise (N, *shape) that a DDPM step adds; row i depends only on the seed, the image's index and the step."""
    return torch.stack([normal(shape, seed, Purpose.STEP_NOISE, image, step) for image in images])


def labels(classes: int, seed: int, images: Iterable[int], rule: LabelRule = "random") -> Tensor:
    """Class labels (N,) of the images with these indices. A label depends only on the seed and the image's index.

    `random` labels are independent and uniform, as in DiT's sampling script. `balanced` labels repeat the list of
    classes. So every class has the same number of images, as in PTQ4DiT's script, or one more or less.
    """
    if rule == "balanced":
        return torch.tensor([image % classes for image in images])
    return torch.tensor([int(generator(seed, Purpose.LABEL, image).integers(classes)) for image in images])
