"""Paired metrics of pixels: each image is compared with the full-precision image of the same index and noise."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.similarity import ssim_per_image, window_size

NO_VALUES: dict[str, float | None] = {"mse_fp": None, "psnr_fp": None, "ssim_fp": None}
"""Means of a run without full-precision samples."""
BLOCK = 64
"""Images converted to float64 at a time: ten thousand large ones would not fit."""


@dataclass(frozen=True)
class PixelComparison:
    """Comparison of N images or clips with full precision: MSE of pixels in [0, 1], PSNR in dB and SSIM, each (N,).

    PSNR and SSIM of a clip are means over its frames. `window` is the side of SSIM's window in pixels.
    """

    errors: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray
    window: int

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Name of each metric → its value (N,) for each sample.

        Full precision itself has no PSNR, because it is infinite.
        """
        named = {"mse_fp": self.errors, "psnr_fp": self.psnr, "ssim_fp": self.ssim}
        return named if self.errors.any() else {name: named[name] for name in ("mse_fp", "ssim_fp")}

    @property
    def record(self) -> dict[str, int]:
        """Facts about the comparison for metrics.json: the side of SSIM's window."""
        return {"ssim_window": self.window}

    @property
    def means(self) -> dict[str, float | None]:
        """Name of each metric → its mean over all samples; None for a metric without a value."""
        means: dict[str, float | None] = {name: float(values.mean()) for name, values in self.columns.items()}
        return NO_VALUES | means


def mse_per_image(images: np.ndarray, fp_images: np.ndarray) -> np.ndarray:
    """Mean squared difference (N,) of each pair of uint8 images (N, C, H, W), with pixels scaled to [0, 1]."""
    _require_pairs(images, fp_images)
    errors = []
    for start in range(0, len(images), BLOCK):
        gap = (images[start : start + BLOCK].astype(np.float64) - fp_images[start : start + BLOCK]) / 255
        errors.append((gap**2).reshape(len(gap), -1).mean(axis=1))
    return np.concatenate(errors)


def psnr_of(errors: np.ndarray, values: int) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, −10 log₁₀ MSE, of images with these MSE; an image has `values` uint8 values.

    The PSNR of equal images would be infinite. They count as images in which one value (0 … 255) differs by 1.
    """
    return np.asarray(-10 * np.log10(np.maximum(errors, 1 / (255**2 * values))))


def compare_images(images: np.ndarray, fp_images: np.ndarray) -> PixelComparison:
    """Compare uint8 images (N, C, H, W) with the full-precision images of the same indices."""
    errors = mse_per_image(images, fp_images)
    psnr = psnr_of(errors, math.prod(images.shape[1:]))
    return PixelComparison(errors, psnr, ssim_per_image(images, fp_images), window_size(*images.shape[-2:]))


def compare_clips(clips: np.ndarray, fp_clips: np.ndarray) -> PixelComparison:
    """Compare uint8 clips (N, C, T, H, W) with those of full precision, frame by frame.

    The MSE is of the whole clip.
    """
    errors = mse_per_image(clips, fp_clips)
    frames, fp_frames = (values.swapaxes(1, 2).reshape(-1, *frame_shape(values)) for values in (clips, fp_clips))
    of_frames = compare_images(frames, fp_frames)
    psnr, ssim = (values.reshape(len(clips), -1).mean(axis=1) for values in (of_frames.psnr, of_frames.ssim))
    return PixelComparison(errors, psnr, ssim, of_frames.window)


def frame_shape(clips: np.ndarray) -> tuple[int, int, int]:
    """Number of channels, height and width of one frame of clips (N, C, T, H, W)."""
    channels, _, height, width = clips.shape[1:]
    return channels, height, width


def stream_errors(images: Iterable[np.ndarray], fp_images: Iterable[np.ndarray]) -> np.ndarray:
    """Mean squared difference (N,) of each pair of images from two streams of batches.

    The batches need not have the same sizes. Raises DataError if one stream ends before the other.
    """
    return np.concatenate([mse_per_image(batch, fp_batch) for batch, fp_batch in aligned(images, fp_images)])


def stream_comparison(
    samples: Iterable[np.ndarray],
    fp_samples: Iterable[np.ndarray],
    compare: Callable[[np.ndarray, np.ndarray], PixelComparison] = compare_images,
) -> PixelComparison:
    """Compare two streams of batches of images, or with `compare=compare_clips` of clips.

    The batches need not have the same sizes. Raises DataError if one stream ends before the other.
    """
    return joined([compare(batch, fp_batch) for batch, fp_batch in aligned(samples, fp_samples)])


def joined(parts: list[PixelComparison]) -> PixelComparison:
    """Join several comparisons into one comparison of all samples."""
    errors, psnr, ssim = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("errors", "psnr", "ssim")
    )
    return PixelComparison(errors, psnr, ssim, parts[0].window)


def _require_pairs(images: np.ndarray, fp_images: np.ndarray) -> None:
    """DataError unless both are uint8 samples of one shape, at least one."""
    if images.dtype != np.uint8 or fp_images.dtype != np.uint8:
        raise DataError(f"paired images are {images.dtype} and {fp_images.dtype}, allowed is uint8; sample them again")
    if images.shape != fp_images.shape:
        raise DataError(
            f"{images.shape} images cannot be paired with {fp_images.shape} full-precision images;"
            " sample both with the same setting"
        )
    if len(images) == 0:
        raise DataError("found 0 images, at least 1 is needed; sample some first")


def aligned(first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of batches of equal size from two streams of batches.

    Both streams are read to their ends, so that their own checks are done. Raises DataError if one ends earlier.
    """
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
