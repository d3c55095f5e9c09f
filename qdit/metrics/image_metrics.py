"""The metrics of images. Each is a function of `Images`; None means that a run has no value.

A `resampled_*` function gives the values (B,) of a metric for all B resamples. `counts` (B, N) says how often each
image occurs in each resample. The registry (`qdit.core.metrics`) names both functions. Recall has no resampled values,
because its balls around generated images shrink if an image occurs twice.
"""

import numpy as np

from qdit.metrics.frechet import MANY_FEATURES, frechet_distance
from qdit.metrics.images import Images
from qdit.metrics.resampled_frechet import paired, to_reference
from qdit.metrics.scores import SPLIT_SIZE, inception_score, realistic, score_of, scores_of_resamples
from qdit.metrics.statistics import moments


def fid(images: Images) -> float:
    """FID:

    Fréchet distance of the pool features to those of the reference, as guided-diffusion's evaluator computes it.
    """
    return frechet_distance(images.pool, images.reference.pool)


def resampled_fid(images: Images, counts: np.ndarray) -> np.ndarray:
    """FID (B,) of each of B resamples."""
    return to_reference(np.asarray(images.run.features.pool, np.float64), counts, images.reference.pool)


def sfid(images: Images) -> float | None:
    """sFID: Fréchet distance of the spatial features to those of the reference; None if the reference has none."""
    if images.reference.spatial is None:
        return None
    return frechet_distance(moments(images.run.features.spatial), images.reference.spatial)


def resampled_sfid(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """sFID (B,) of each of B resamples."""
    if images.reference.spatial is None:
        return None
    return to_reference(np.asarray(images.run.features.spatial, np.float64), counts, images.reference.spatial)


def inception(images: Images) -> float:
    """Inception score, from the logits of the images."""
    return inception_score(images.run.features.logits)


def resampled_inception(images: Images, counts: np.ndarray) -> np.ndarray:
    """Inception score (B,) of each of B resamples, over the same parts of the images as the score itself."""
    log_p = images.log_probabilities
    parts = [slice(start, start + SPLIT_SIZE) for start in range(0, len(log_p), SPLIT_SIZE)]
    if log_p.shape[1] > MANY_FEATURES:
        return np.asarray(np.mean([scores_of_resamples(log_p[rows], counts[:, rows]) for rows in parts], axis=0))
    scores = [[score_of(log_p[rows], row[rows]) for rows in parts] for row in counts]
    return np.asarray(np.mean(scores, axis=1))


def precision(images: Images) -> float | None:
    """Precision: fraction of the images that lie in the reference's manifold (Kynkäänniemi et al. 2019).

    None without reference images.
    """
    return images.precision_recall[0]


def resampled_precision(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """Precision (B,) of each of B resamples."""
    if images.reference.pool_features is None:
        return None
    inside = realistic(images.reference.pool_features, images.run.features.pool)
    return np.asarray(counts @ inside / counts.shape[1])


def recall(images: Images) -> float | None:
    """Recall: fraction of the reference images that lie in the images' manifold; None without reference images."""
    return images.precision_recall[1]


def class_accuracy(images: Images) -> float | None:
    """Fraction of images that the classifier assigns to their label.

    None if the classes of the classifier are not the labels, or if an image has no label (−1).
    """
    return float(images.has_label_class.mean()) if images.has_classes else None


def resampled_class_accuracy(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """Class accuracy (B,) of each of B resamples."""
    return counts @ images.has_label_class / counts.shape[1] if images.has_classes else None


def distance_to_full_precision(images: Images) -> float | None:
    """FD-FP: Fréchet distance of the pool features to those of full precision. It is 0 for full precision itself."""
    if images.fp is None:
        return None
    return 0.0 if images.fp.is_same else frechet_distance(images.pool, moments(images.fp.run.features.pool))


def resampled_distance_to_full_precision(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """FD-FP (B,) of each of B resamples. The full-precision images are resampled in the same way."""
    if images.fp is None:
        return None
    if images.fp.is_same:
        return np.zeros(len(counts))
    return paired(images.run.features.pool, images.fp.run.features.pool, counts)


def error_to_full_precision(images: Images) -> float | None:
    """MSE-FP: mean squared difference of pixels in [0, 1] to the full-precision image of the same index."""
    return None if images.fp is None else float(images.fp.pixels.errors.mean())


def resampled_error_to_full_precision(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """MSE-FP (B,) of each of B resamples."""
    return None if images.fp is None else mean_of_resamples(images.fp.pixels.errors, counts)


def mean_of_resamples(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean (B,) of each resample of the values (N,), in which value i occurs counts[b, i] times; counts is (B, N)."""
    return np.asarray(counts @ values / len(values))


def sliced_to_reference(images: Images) -> float | None:
    """MIND of the pool features to those of the reference: a sliced Wasserstein distance (`qdit.metrics.sliced`).

    None without reference images.
    """
    return None if images.sliced_to_reference is None else images.sliced_to_reference.value


def resampled_sliced_to_reference(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """MIND (B,) of each of B resamples, by a first-order approximation (`qdit.metrics.sliced`)."""
    return None if images.sliced_to_reference is None else images.sliced_to_reference.resampled(counts)


def sliced_to_full_precision(images: Images) -> float | None:
    """MIND-FP: MIND of the pool features to those of full precision. It is 0 for full precision itself."""
    return None if images.sliced_to_full_precision is None else images.sliced_to_full_precision.value


def resampled_sliced_to_full_precision(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """MIND-FP (B,) of each of B resamples, by a first-order approximation (`qdit.metrics.sliced`).

    The full-precision images are resampled in the same way.
    """
    return None if images.sliced_to_full_precision is None else images.sliced_to_full_precision.resampled(counts)


def peak_ratio(images: Images) -> float | None:
    """PSNR-FP: mean PSNR in dB to the full-precision images; None for full precision itself, where it is infinite."""
    return None if images.fp is None or images.fp.is_same else float(images.fp.pixels.psnr.mean())


def resampled_peak_ratio(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """PSNR-FP (B,) of each of B resamples."""
    if images.fp is None or images.fp.is_same:
        return None
    return mean_of_resamples(images.fp.pixels.psnr, counts)


def similarity(images: Images) -> float | None:
    """SSIM-FP: mean SSIM to the full-precision images (`qdit.metrics.similarity`)."""
    return None if images.fp is None else float(images.fp.pixels.ssim.mean())


def resampled_similarity(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """SSIM-FP (B,) of each of B resamples."""
    return None if images.fp is None else mean_of_resamples(images.fp.pixels.ssim, counts)


def perceptual(images: Images) -> float | None:
    """LPIPS-FP: mean LPIPS to the full-precision images; None if `qdit perceptual` did not compute it."""
    return None if images.fp is None or images.fp.lpips is None else float(images.fp.lpips.mean())


def resampled_perceptual(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """LPIPS-FP (B,) of each of B resamples."""
    return None if images.fp is None or images.fp.lpips is None else mean_of_resamples(images.fp.lpips, counts)
