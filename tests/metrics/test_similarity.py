"""SSIM against its formula in loops, and PSNR against its definition."""

import numpy as np
import pytest

from qdit.metrics.paired import compare_clips, compare_images, psnr_of, stream_comparison
from qdit.metrics.similarity import K1, K2, SIGMA, ssim_per_image, window_size


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def ssim_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of Wang et al. at every position of every channel, one after the other."""
    height, width = a.shape[1:]
    size = min(11, height, width)
    size -= size % 2 == 0
    middle = size // 2
    window = np.array(
        [[np.exp(-((i - middle) ** 2 + (j - middle) ** 2) / (2 * SIGMA**2)) for j in range(size)] for i in range(size)]
    )
    window /= window.sum()
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    values = []
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        for top in range(height - size + 1):
            for left in range(width - size + 1):
                p, q = (plane[top : top + size, left : left + size] for plane in (x, y))
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
                cov = (window * (p - mean_p) * (q - mean_q)).sum()
                top_of = (2 * mean_p * mean_q + c1) * (2 * cov + c2)
                values.append(top_of / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (2, 11, 9), (1, 13, 20), (1, 1, 5)])
def test_ssim_is_the_formula_at_every_position(shape: tuple[int, ...]) -> None:
    a, noise = images(3, *shape), images(3, *shape, seed=1)
    b = np.clip(a.astype(int) + noise % 30, 0, 255).astype(np.uint8)
    expected = [ssim_by_loops(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim_per_image(a, b), expected, rtol=1e-9)


def test_values_of_equal_images_and_of_black_against_white() -> None:
    a = images(2, 3, 16, 16)
    np.testing.assert_allclose(ssim_per_image(a, a), 1, rtol=1e-12)
    black = np.zeros((1, 1, 8, 8), np.uint8)
    constant = (K1 * 255) ** 2
    assert ssim_per_image(black, black + 255)[0] == pytest.approx(constant / (255**2 + constant), rel=1e-9)


@pytest.mark.parametrize(
    ("size", "window"), [((8, 8), 7), ((16, 16), 11), ((256, 256), 11), ((7, 100), 7), ((10, 11), 9), ((1, 1), 1)]
)
def test_a_small_image_has_the_largest_odd_window_that_fits(size: tuple[int, int], window: int) -> None:
    assert window_size(*size) == window


def test_ssim_of_large_batches_is_that_of_each_pair() -> None:
    a, b = images(9, 3, 160, 160), images(9, 3, 160, 160, seed=1)
    alone = [ssim_per_image(a[row : row + 1], b[row : row + 1])[0] for row in range(9)]
    np.testing.assert_array_equal(ssim_per_image(a, b), alone)


def test_psnr_is_that_of_its_definition_and_equal_images_count_as_one_level() -> None:
    a = images(2, 1, 8, 8)
    b = a.copy()
    b[1, 0, 0, 0] ^= 1  # by one level
    compared = compare_images(a, b)
    assert compared.psnr[0] == compared.psnr[1] == pytest.approx(10 * np.log10(255**2 * 64))
    assert psnr_of(np.array([0.01, 1.0]), 64) == pytest.approx([20.0, 0.0], abs=1e-12)


def test_a_clip_has_the_means_of_its_frames() -> None:
    a, b = images(2, 3, 4, 16, 16), images(2, 3, 4, 16, 16, seed=1)
    clips = compare_clips(a, b)
    for clip in range(2):
        frames = compare_images(a[clip].transpose(1, 0, 2, 3), b[clip].transpose(1, 0, 2, 3))
        assert clips.psnr[clip] == pytest.approx(frames.psnr.mean(), rel=1e-12)
        assert clips.ssim[clip] == pytest.approx(frames.ssim.mean(), rel=1e-12)
        assert clips.errors[clip] == pytest.approx(frames.errors.mean(), rel=1e-12)


def test_streams_cut_anywhere_give_the_same_comparison() -> None:
    a, b = images(20, 1, 8, 8), images(20, 1, 8, 8, seed=1)
    whole, streamed = compare_images(a, b), stream_comparison(np.split(a, [3, 9]), np.split(b, [5, 6, 17]))
    for name in ("errors", "psnr", "ssim"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(streamed, name))
    assert streamed.window == 7


def test_full_precision_itself_has_no_psnr() -> None:
    a = images(3, 1, 8, 8)
    assert compare_images(a, a).means == {"mse_fp": 0.0, "psnr_fp": None, "ssim_fp": 1.0}
    assert set(compare_images(a, a[::-1]).columns) == {"mse_fp", "psnr_fp", "ssim_fp"}
