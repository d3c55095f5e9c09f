"""Paired metrics: each image is compared with the full-precision image of the same index, which has the same noise."""

from collections.abc import Iterable, Iterator

import numpy as np

from qdit.core.errors import DataError

BLOCK = 64
"""Images converted to float64 at a time: ten thousand large ones would not fit."""


def mse_per_image(images: np.ndarray, fp_images: np.ndarray) -> np.ndarray:
    """Mean squared difference (N,) of uint8 images (N, C, H, W) on the [0, 1] scale."""
    if images.dtype != np.uint8 or fp_images.dtype != np.uint8:
        raise DataError(f"paired images are {images.dtype} and {fp_images.dtype}, allowed is uint8; sample them again")
    if images.shape != fp_images.shape:
        raise DataError(
            f"{images.shape} images cannot be paired with {fp_images.shape} full-precision images;"
            " sample both with the same setting"
        )
    if len(images) == 0:
        raise DataError("found 0 images, at least 1 is needed; sample some first")
    errors = []
    for start in range(0, len(images), BLOCK):
        gap = (images[start : start + BLOCK].astype(np.float64) - fp_images[start : start + BLOCK]) / 255
        errors.append((gap**2).reshape(len(gap), -1).mean(axis=1))
    return np.concatenate(errors)


def stream_errors(images: Iterable[np.ndarray], fp_images: Iterable[np.ndarray]) -> np.ndarray:
    """`mse_per_image` (N,) of two streams of batches; the batches need not have the same sizes.

    Raises DataError if one stream ends before the other.
    """
    return np.concatenate([mse_per_image(batch, fp_batch) for batch, fp_batch in _aligned(images, fp_images)])


def _aligned(first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both streams, cut where either has a cut; both are read to their ends, so that their own checks are done."""
    others = (batch for batch in second if len(batch))
    rest = next(others, None)
    count = 0
    for batch in first:
        while len(batch):
            if rest is None:
                raise DataError(f"there are {count} full-precision images and more of the run; sample both again")
            common = min(len(batch), len(rest))
            yield batch[:common], rest[:common]
            count += common
            batch, rest = batch[common:], rest[common:]
            if not len(rest):
                rest = next(others, None)
    if rest is not None:
        raise DataError(f"there are {count} images of the run and more of full precision; sample both again")
    if not count:
        raise DataError("found 0 images, at least 1 is needed; sample some first")
