"""Bootstrap of a run's metrics over its samples: how much a number changes with the choice of images or clips.

**Images, not chunks.** Noise and label of each image are drawn independently (`qdit.sampling.noise`), and no layer
mixes images of a batch. So images are independent; a chunk is only a way to compute them. A resample of 16 chunks of 32
images would estimate the spread from 16 units, with an error of about 18 % (1/√(2·15)). With 512 images the error is 3
%. We tried both on four runs of the mini profile. The deviation by chunks was 0.93 to 0.96 times that by images for
FID, 0.98 to 1.13 times for FD-FP, and 1.45 to 1.62 times for sFID. A resample of chunks lacks a third of them, so
sFID's 112 features then have few distinct images.

**One drawing for all runs.** The drawing depends only on the number of images. All methods of a setting
have the same noise. So resample i of two runs holds the same images, and their differences are paired
(`qdit.core.intervals`). Full precision is resampled together with the run.

**Bias.** A resample has repeated images, so its distances are a little too large. The increase is about as large as the
one that n images cause in place of infinitely many. Intervals of the plain resampled values therefore miss even the
average value for n images: in a test with two equal Gaussians (100 images, 8 features) only 5 % of the 95 % intervals
cover it. So the values are shifted: their mean becomes the measured value. The intervals are about the average for n
images, which a table shows, not about infinitely many images. Near zero a distance is mostly noise, and the intervals
are too wide: 100 % cover the average there, and 93 % far from zero (tests/metrics/test_bootstrap.py).

**MIND.** Its resampled values are first-order approximations (`qdit.metrics.sliced`).

**Clips.** The prompts are fixed, as in VBench, and the noise of each clip is independent. So the clips of each
dimension are resampled; mFVD and the paired metrics resample all clips. Two runs of one suite have the same drawing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import sha256_json
from qdit.core.intervals import Resamples, centred, interval
from qdit.core.metrics import DIMENSIONS, METRICS, TOTALS, of_images, resolve
from qdit.metrics.features import RunFeatures
from qdit.metrics.images import FullPrecision, Images
from qdit.metrics.judged import Judged
from qdit.metrics.paired import PixelComparison
from qdit.metrics.reference import Reference
from qdit.metrics.resampled_frechet import paired, to_reference
from qdit.metrics.scores import SPLIT_SIZE
from qdit.metrics.sliced import sliced_distance
from qdit.metrics.statistics import Moments
from qdit.metrics.vbench_totals import totals

RESAMPLES = 200
SEED = 0
"""Seed of the drawing. It is not a part of a profile: runs are paired only if their drawings are equal."""

Scores = Mapping[str, Sequence[float | None]]
"""Dimension → score of each of its clips; None where VBench skips the clip."""
Scaled = Callable[[Mapping[str, float]], Mapping[str, float]]
"""Score of each dimension → the same on the scale of the totals, 0 to 1."""


@dataclass(frozen=True)
class ClipFeatures:
    """Features (N, d) of a run's clips and of the full-precision clips, and the moments of real clips."""

    features: np.ndarray
    real: Moments
    full: np.ndarray | None = None


def multiplicities(images: int, resamples: int, *, frames: int = 1) -> np.ndarray:
    """How often each image occurs in each resample: (resamples, images). Each row sums to `images`.

    The inception score is computed over parts of `SPLIT_SIZE` images, so each part is resampled by itself. If images
    are frames of clips, `frames` consecutive images belong to one clip and occur equally often: clips are resampled.
    """
    if frames > 1:
        if images % frames or SPLIT_SIZE % frames:
            raise DataError(f"found {images} images and {frames} frames of each clip; sample whole clips")
        return np.repeat(clip_multiplicities(images // frames, resamples, SPLIT_SIZE // frames), frames, axis=1)
    return clip_multiplicities(images, resamples, SPLIT_SIZE)


def clip_multiplicities(clips: int, resamples: int, split: int) -> np.ndarray:
    """How often each clip or image occurs in each resample: (resamples, clips).

    The clips are divided into consecutive parts of `split` clips. Each part is resampled by itself.
    """
    draw = np.random.Generator(np.random.Philox(SEED))
    sizes = [min(split, clips - start) for start in range(0, clips, split)]
    parts = [
        np.stack([np.bincount(draw.integers(size, size=size), minlength=size) for _ in range(resamples)])
        for size in sizes
    ]
    return np.concatenate(parts, axis=1)


def bootstrap(
    run: RunFeatures,
    *,
    reference: Reference,
    fp: FullPrecision | None,
    resamples: int = RESAMPLES,
    frames: int = 1,
    judged: Judged | None = None,
) -> Resamples:
    """Resampled values of all metrics of images that have a function for it; the paired metrics only with `fp`.

    The arguments are those of `evaluate`, which checks them. If images are frames of clips, `frames` is their number in
    a clip. 512 images with 64 + 112 features take 0.5 s of one core. `qdit.metrics.resampled_frechet` says how the
    distances of many features are computed.
    """
    counts = multiplicities(len(run.features), resamples, frames=frames)
    images = Images(run, reference, fp, judged or Judged())
    named = {name: metric.resampled for name, metric in METRICS.items() if of_images(metric) and metric.resampled}
    values = {name: resolve(function)(images, counts) for name, function in named.items()}
    return Resamples({name: column for name, column in values.items() if column is not None}, pairing(counts))


def clip_bootstrap(
    scores: Scores,
    clips: int,
    *,
    drawing: str = "clips",
    scaled: Scaled | None = None,
    features: ClipFeatures | None = None,
    pixels: PixelComparison | None = None,
    resamples: int = RESAMPLES,
) -> Resamples:
    """Resampled values of the dimensions in `scores`, and of all further metrics whose inputs are given.

    `scaled` scales the dimensions and so gives the totals, if all sixteen dimensions are there. `features` gives mFVD.
    `pixels` compares the N clips with full precision and gives MSE-FP, PSNR-FP and SSIM-FP; with features of full
    precision there are also FD-FP and MIND-FP. `drawing` names the program that scored the clips.
    """
    values = {
        dimension: resampled_means(scores[dimension], number, resamples)
        for number, dimension in enumerate(DIMENSIONS)
        if dimension in scores
    }
    if scaled is not None and len(values) == len(DIMENSIONS):
        rows = [{name: float(column[i]) for name, column in values.items()} for i in range(resamples)]
        resampled = [totals(scaled(row)) for row in rows]
        values |= {name: np.array([row[name] for row in resampled]) for name in TOTALS}
    counts = multiplicities(clips, resamples)
    if features is not None:
        values["mfvd"] = to_reference(np.asarray(features.features, np.float64), counts, features.real)
        if features.full is not None and pixels is not None:
            is_same = not pixels.errors.any()
            values["fd_fp"] = np.zeros(resamples) if is_same else paired(features.features, features.full, counts)
            sliced = None if is_same else sliced_distance(features.features, features.full, paired=True)
            values["mind_fp"] = np.zeros(resamples) if sliced is None else sliced.resampled(counts)
    if pixels is not None:
        values |= {name: counts @ column / clips for name, column in pixels.columns.items()}
    scored = {dimension: len(of_clips) for dimension, of_clips in scores.items()}
    return Resamples(values, f"{drawing}-{resamples}x{clips}-{sha256_json(scored)[:12]}")


def resampled_means(scores: Sequence[float | None], number: int, resamples: int) -> np.ndarray:
    """Mean score (B,) of each of B resamples of the clips, as VBench computes it.

    Clips without a score do not count; the mean is 0 if no clip has a score. `number` is the number of the dimension.
    """
    draw = np.random.Generator(np.random.Philox([SEED, number]))
    values = np.array([np.nan if score is None else score for score in scores], np.float64)
    rows = values[draw.integers(len(values), size=(resamples, len(values)))]
    counted = np.isfinite(rows)
    return np.asarray(np.where(counted, rows, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1))


def pairing(counts: np.ndarray) -> str:
    """Name of the way in which images were resampled. Runs with equal names have equal resamples."""
    return f"{counts.shape[0]}x{counts.shape[1]}-{sha256_json(counts[:, :1000].sum(axis=0).tolist())[:12]}"


def intervals(metrics: Mapping[str, float | None], resamples: Resamples) -> dict[str, list[float]]:
    """Name of each metric → [low, high], the 95 % interval around its measured value."""
    known = {name: metrics[name] for name in resamples.values if metrics.get(name) is not None}
    return {
        name: list(interval(centred(name, value, resamples.values[name])))
        for name, value in known.items()
        if value is not None
    }
