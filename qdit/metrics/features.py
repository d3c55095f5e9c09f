"""Features of images: what an extractor returns, how it is called in fixed batches, and the extractors by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdit.errors import ConfigError, DataError, did_you_mean

SPATIAL_CHANNELS = 7
"""Channels of the spatial layer that sFID uses (guided-diffusion's evaluator slices mixed_6 to its first 7)."""

Images = np.ndarray | Tensor


@dataclass(frozen=True)
class Features:
    """Float32 features of N images: pool (N, d) for FID and precision/recall, spatial (N, s) for sFID, logits
    without bias (N, c) for the inception score."""

    pool: np.ndarray
    spatial: np.ndarray
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.pool)


class Extractor(Protocol):
    """uint8 images (N, C, H, W) → Features.

    `digest` is the sha256 of the weights file; `classes_are_labels` says whether the argmax of the logits can be
    compared with the label an image was asked for.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def classes_are_labels(self) -> bool: ...

    def __call__(self, images: Images) -> Features: ...


def require_images(images: Images, shape: tuple[int | None, int | None, int | None], *, who: str) -> Tensor:
    """The images as a uint8 tensor (N, C, H, W), N ≥ 1; `shape` is the allowed (C, H, W), None for any.

    Raises DataError on another type, number of dimensions or shape.
    """
    allowed = "(N, " + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    if images.dtype not in (np.uint8, torch.uint8):
        raise DataError(f"{who}: images are {images.dtype}, allowed is uint8; convert with qdit.data.digits.to_uint8")
    fits = images.ndim == 4 and all(size in (None, found) for size, found in zip(shape, images.shape[1:], strict=True))
    if not fits:
        raise DataError(
            f"{who}: images have shape {tuple(images.shape)}, allowed is {allowed}; give images of that size"
        )
    if len(images) == 0:
        raise DataError(f"{who}: found 0 images, at least 1 is needed; sample some first")
    return torch.as_tensor(images)


def extract_in_batches(
    images: Tensor, network: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], *, batch: int, device: str = "cpu"
) -> Features:
    """Features of all images, computed in batches of exactly `batch` images.

    The last batch is padded with zeros, so that the features of an image do not depend on how many follow it.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            padding = chunk.new_zeros((batch - len(chunk), *chunk.shape[1:]))
            outputs = network(torch.cat([chunk, padding]).to(device))
            parts.append(tuple(output[: len(chunk)].float().cpu().numpy() for output in outputs))
    pool, spatial, logits = (np.concatenate(layer) for layer in zip(*parts, strict=True))
    return Features(pool, spatial, logits)


def load_extractor(name: str, weights: Path, *, sha256: str | None = None, device: str = "cpu") -> Extractor:
    """The extractor of that name with its weights; with `sha256` the file's bytes are checked first.

    `device` is where Inception runs; the digit classifier always runs on the CPU.
    Raises ConfigError on an unknown name and CheckpointError on weights that cannot be used.
    """
    # Imported on demand: Inception's module pulls in torch-fidelity and torchvision, which takes seconds.
    if name == "digit-classifier":
        from qdit.metrics.digit_classifier import load_digit_classifier

        return load_digit_classifier(weights, sha256=sha256)
    if name == "inception-adm":
        from qdit.metrics.inception import load_inception

        return load_inception(weights, sha256=sha256, device=device)
    allowed = ("digit-classifier", "inception-adm")
    raise ConfigError(f"unknown extractor {name!r}; allowed are {', '.join(allowed)}{did_you_mean(name, allowed)}")
