"""Structural similarity (SSIM) of pairs of images (Wang et al., IEEE Trans. Image Processing 13, 2004, Section III).

The window is a Gaussian of 11 × 11 pixels with σ = 1.5; K₁ = 0.01, K₂ = 0.03, and the range is 255. Each channel has
its own map. The value of an image is the mean over its channels and over all positions where the window lies inside the
image. If a side is shorter than 11 pixels, the window is the largest odd square that fits, with the same σ: 7 × 7 for
images of 8 × 8. Everything is float64.
"""

import numpy as np

WINDOW, SIGMA = 11, 1.5
K1, K2, RANGE = 0.01, 0.03, 255.0
VALUES_AT_ONCE = 1 << 19
"""Pixels filtered at a time, so that the maps stay in the cache."""


def window_size(height: int, width: int) -> int:
    """Side of the window for images of this size: 11, or the largest odd number of pixels that fits."""
    smallest = min(height, width, WINDOW)
    return smallest if smallest % 2 else smallest - 1


def window_weights(size: int) -> np.ndarray:
    """Weights (size,) of one axis of the Gaussian window; their sum is 1."""
    distances = np.arange(size) - size // 2
    weights = np.exp(-(distances**2) / (2 * SIGMA**2))
    return np.asarray(weights / weights.sum())


def ssim_per_image(images: np.ndarray, fp_images: np.ndarray) -> np.ndarray:
    """SSIM (N,) of uint8 images (N, C, H, W) and the images of the same indices; 1 for equal images."""
    weights = window_weights(window_size(*images.shape[-2:]))
    step = max(1, VALUES_AT_ONCE // max(1, int(np.prod(images.shape[1:]))))
    blocks = [slice(start, start + step) for start in range(0, len(images), step)]
    return np.concatenate([_similarities(images[rows], fp_images[rows], weights) for rows in blocks])


def _similarities(images: np.ndarray, fp_images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """SSIM of a block of images. Only the sum of the two variances is needed, so four maps are filtered."""
    a, b = images.astype(np.float64), fp_images.astype(np.float64)
    mean_a, mean_b, squares, product = (filtered(values, weights) for values in (a, b, a * a + b * b, a * b))
    means_squared, means_product = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    structure = (2 * (product - means_product) + c2) / (squares - means_squared + c2)
    similarity = (2 * means_product + c1) / (means_squared + c1) * structure
    return np.asarray(similarity.reshape(len(images), -1).mean(axis=1))


def filtered(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means (…, H − n + 1, W − n + 1) of values (…, H, W) in windows of n × n.

    A window's weight is the product of `weights` (n,) along both axes.
    """
    for axis in (-1, -2):
        values = _along(values, weights, axis)
    return values


def _along(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Weighted means along one axis; the two values at equal distance from the middle are added first."""
    size, last = len(weights), values.shape[axis] - len(weights) + 1

    def shifted(start: int) -> np.ndarray:
        rows = slice(start, start + last)
        return values[..., rows] if axis == -1 else values[..., rows, :]

    total = shifted(size // 2) * weights[size // 2]
    for start in range(size // 2):
        total += (shifted(start) + shifted(size - 1 - start)) * weights[start]
    return np.asarray(total)
