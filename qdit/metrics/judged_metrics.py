"""Metrics of networks that judge single images: CLIP score, ImageReward, FD-DINOv2. None where no network judged them.

The registry (`qdit.core.metrics`) names these functions. `counts` (B, N) says how often each of N images occurs in each
of B resamples.
"""

import numpy as np

from qdit.metrics.frechet import frechet_distance
from qdit.metrics.image_metrics import mean_of_resamples
from qdit.metrics.images import Images
from qdit.metrics.resampled_frechet import paired, to_reference
from qdit.metrics.statistics import moments


def clip_score(images: Images) -> float | None:
    """Mean CLIP score of the images and their prompts (`qdit.metrics.judge_clip`)."""
    return mean_score(images, "clip")


def resampled_clip_score(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """Mean CLIP score (B,) of each of B resamples."""
    return mean_scores(images, "clip", counts)


def image_reward(images: Images) -> float | None:
    """Mean ImageReward of the images and their prompts (`qdit.metrics.judge_reward`)."""
    return mean_score(images, "image-reward")


def resampled_image_reward(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """Mean ImageReward (B,) of each of B resamples."""
    return mean_scores(images, "image-reward", counts)


def dino_distance(images: Images) -> float | None:
    """FD-DINOv2: Fréchet distance of DINOv2 features to those of the reference (`qdit.metrics.judge_dino`)."""
    if "dino" not in images.judged.features or "dino" not in images.judged.references:
        return None
    return frechet_distance(moments(images.judged.features["dino"]), images.judged.references["dino"])


def resampled_dino_distance(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """FD-DINOv2 (B,) of each of B resamples."""
    if "dino" not in images.judged.features or "dino" not in images.judged.references:
        return None
    return to_reference(images.judged.features["dino"], counts, images.judged.references["dino"])


def dino_distance_to_full_precision(images: Images) -> float | None:
    """Fréchet distance of DINOv2 features to those of full precision. It is 0 for full precision itself."""
    if images.fp is None or "dino" not in images.judged.fp_features or "dino" not in images.judged.features:
        return None
    if images.fp.is_same:
        return 0.0
    return frechet_distance(moments(images.judged.features["dino"]), moments(images.judged.fp_features["dino"]))


def resampled_dino_distance_to_full_precision(images: Images, counts: np.ndarray) -> np.ndarray | None:
    """Fréchet distance (B,) of DINOv2 features to those of full precision, for each of B resamples.

    The full-precision images are resampled in the same way.
    """
    if images.fp is None or "dino" not in images.judged.fp_features or "dino" not in images.judged.features:
        return None
    if images.fp.is_same:
        return np.zeros(len(counts))
    return paired(images.judged.features["dino"], images.judged.fp_features["dino"], counts)


def mean_score(images: Images, judge: str) -> float | None:
    """Mean over images of a judge's scores; None if this judge gave none."""
    return float(images.judged.scores[judge].mean()) if judge in images.judged.scores else None


def mean_scores(images: Images, judge: str, counts: np.ndarray) -> np.ndarray | None:
    """Mean (B,) of a judge's scores in each of B resamples; None if this judge gave none."""
    return mean_of_resamples(images.judged.scores[judge], counts) if judge in images.judged.scores else None
