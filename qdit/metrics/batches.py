"""Features of images, computed by a network in batches of a fixed size."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import DataError
from qdit.metrics.features import Features, Images


def require_images(images: Images, shape: tuple[int | None, int | None, int | None], *, who: str) -> Tensor:
    """The images as a uint8 tensor (N, C, H, W), N ≥ 1. `shape` is the allowed (C, H, W); None in it allows any number.

    Raises DataError on another type, number of dimensions or shape.
    """
    allowed = "(N, " + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    if images.dtype not in (np.uint8, torch.uint8):
        raise DataError(f"{who}: images are {images.dtype}, allowed is uint8; convert with qdit.core.pixels.to_uint8")
    fits = images.ndim == 4 and all(
        size in (None, actual) for size, actual in zip(shape, images.shape[1:], strict=True)
    )
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

    The last batch is padded with zeros. So the features of an image do not depend on the number of images after it.
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
