"""All metrics of one run: FID, sFID, IS, precision, recall, class accuracy, and the paired FD-FP and MSE-FP."""

from dataclasses import dataclass

import numpy as np

from qdit.errors import DataError
from qdit.metrics.features import Extractor, Features
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.paired import mse_fp
from qdit.metrics.reference import Reference
from qdit.metrics.scores import inception_score, precision_recall
from qdit.metrics.statistics import Moments, moments


@dataclass(frozen=True)
class FullPrecision:
    """The full-precision run of the same setting: images uint8 (N, C, H, W), labels (N,), moments of their pool."""

    images: np.ndarray
    labels: np.ndarray
    pool: Moments


def full_precision(images: np.ndarray, labels: np.ndarray, *, extractor: Extractor) -> FullPrecision:
    """What `evaluate` needs of the full-precision run."""
    return FullPrecision(images, labels, moments(extractor(images).pool))


def evaluate(
    images: np.ndarray, labels: np.ndarray, *, extractor: Extractor, reference: Reference, fp: FullPrecision | None
) -> dict[str, float | None]:
    """Metrics of uint8 images (N, C, H, W), N ≥ 4, that were asked for with labels (N,).

    fid, sfid, is, precision and recall follow guided-diffusion's evaluator. class_accuracy is the fraction of
    images in which the classifier sees the asked label, None if its classes are not the labels. fd_fp is the
    Fréchet distance of the pool features to those of `fp`, mse_fp the mean squared pixel difference on [0, 1] to
    the image of the same index; both are None without `fp` and exactly 0 for the full-precision run itself.
    Raises DataError on no images, counts or extractors that do not fit, and features that are not finite.
    """
    _check(images, labels, extractor, reference, fp)
    features = extractor(images)
    pool = moments(features.pool)
    precision, recall = _precision_recall(features, reference)
    metrics: dict[str, float | None] = {
        "fid": frechet_distance(pool, reference.pool),
        "sfid": frechet_distance(moments(features.spatial), reference.spatial),
        "is": inception_score(features.logits),
        "precision": precision,
        "recall": recall,
        "class_accuracy": _class_accuracy(features, labels) if extractor.classes_are_labels else None,
        "fd_fp": None,
        "mse_fp": None,
    }
    if fp is not None:
        same = np.array_equal(images, fp.images)
        metrics["fd_fp"] = 0.0 if same else frechet_distance(pool, fp.pool)
        metrics["mse_fp"] = 0.0 if same else mse_fp(images, fp.images)
    return metrics


def _check(
    images: np.ndarray, labels: np.ndarray, extractor: Extractor, reference: Reference, fp: FullPrecision | None
) -> None:
    if len(images) == 0:
        raise DataError("found 0 images to evaluate, at least 4 are needed; sample some first")
    if labels.shape != (len(images),):
        raise DataError(f"found {len(images)} images and labels of shape {labels.shape}; give one label per image")
    if reference.extractor_digest not in ("", extractor.digest):
        raise DataError(
            f"reference was made with extractor weights {reference.extractor_digest[:12]}…, these images are evaluated"
            f" with {extractor.digest[:12]}…; make the reference again"
        )
    if fp is not None and not np.array_equal(labels, fp.labels):
        raise DataError(
            f"labels of {len(labels)} images differ from those of the {len(fp.labels)} full-precision images;"
            " sample both with the same setting"
        )


def _precision_recall(features: Features, reference: Reference) -> tuple[float, float]:
    if reference.pool_features is None:
        raise DataError("reference has no pool features for precision and recall; import it with import_adm_reference")
    return precision_recall(reference.pool_features, features.pool)


def _class_accuracy(features: Features, labels: np.ndarray) -> float:
    return float((features.logits.argmax(axis=1) == labels).mean())
