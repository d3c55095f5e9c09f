"""The extractors by name, and how they are called: uint8 images in fixed batches. Loads torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qdit.errors import ConfigError, DataError, did_you_mean
from qdit.metrics.features import Extractor, Features, Images


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

    `device` is where Inception runs; the digit classifiers always run on the CPU.
    Raises ConfigError on an unknown name and CheckpointError on weights that cannot be used.
    """
    # Imported on demand: Inception's module pulls in torch-fidelity and torchvision, which takes seconds.
    if name in ("digit-classifier", "digit-classifier-16"):
        from qdit.metrics.digit_classifier import load_digit_classifier

        return load_digit_classifier(weights, sha256=sha256, name=name)
    if name == "inception-adm":
        from qdit.metrics.inception import load_inception

        return load_inception(weights, sha256=sha256, device=device)
    allowed = ("digit-classifier", "digit-classifier-16", "inception-adm")
    raise ConfigError(f"unknown extractor {name!r}; allowed are {', '.join(allowed)}{did_you_mean(name, allowed)}")
