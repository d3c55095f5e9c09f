"""Noise and labels of images by index, so that every method, batch size and shard sees the same ones."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qdit.core.seeds import Purpose, generator, normal


def initial_noise(shape: tuple[int, ...], seed: int, images: Iterable[int]) -> Tensor:
    """(N, *shape) standard normal; row i depends only on (seed, image index)."""
    return torch.stack([normal(shape, seed, Purpose.INITIAL_NOISE, image) for image in images])


def step_noise(shape: tuple[int, ...], seed: int, images: Iterable[int], step: int) -> Tensor:
    """(N, *shape) noise of one DDPM step; row i depends only on (seed, image index, step)."""
    return torch.stack([normal(shape, seed, Purpose.STEP_NOISE, image, step) for image in images])


def labels(classes: int, seed: int, images: Iterable[int]) -> Tensor:
    """(N,) labels, independent and uniform as in DiT's sampling script."""
    return torch.tensor([int(generator(seed, Purpose.LABEL, image).integers(classes)) for image in images])
