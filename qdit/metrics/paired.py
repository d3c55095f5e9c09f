"""Paired metrics: each image against the full-precision image of the same index, which had the same noise."""

import numpy as np

from qdit.errors import DataError

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


def mse_fp(images: np.ndarray, fp_images: np.ndarray) -> float:
    """MSE-FP: mean over images of `mse_per_image`; 0 for equal images, at most 1."""
    return float(mse_per_image(images, fp_images).mean())
