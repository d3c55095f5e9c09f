"""All metrics of one run: FID, sFID, IS, precision, recall, class accuracy, and the paired FD-FP and MSE-FP."""

from dataclasses import dataclass

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.features import Features, RunFeatures
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.reference import Reference
from qdit.metrics.scores import inception_score, precision_recall
from qdit.metrics.statistics import Moments, moments


@dataclass(frozen=True)
class FullPrecision:
    """A run beside the full-precision run of the same setting: the latter's features, and for each pair of images
    the mean squared difference (N,) (`qdit.metrics.paired`)."""

    run: RunFeatures
    errors: np.ndarray


def evaluate(run: RunFeatures, *, reference: Reference, fp: FullPrecision | None) -> dict[str, float | None]:
    """Metrics of N ≥ 4 images by their features.

    fid, sfid, is, precision and recall follow guided-diffusion's evaluator; sfid, precision and recall are None where
    the reference was made of ready statistics without what they need. class_accuracy is the fraction of images in which
    the classifier sees the asked label, None if its classes are not the labels or an image has no label (−1). fd_fp is
    the Fréchet distance of the pool features to those of `fp`, mse_fp the mean squared pixel difference on [0, 1] to
    the image of the same index; both are None without `fp` and exactly 0 for the full-precision run itself.
    Raises DataError on no images, counts or extractors that do not fit, and features that are not finite.
    """
    _check(run, reference, fp)
    pool = moments(run.features.pool)
    precision, recall = _precision_recall(run.features, reference)
    metrics: dict[str, float | None] = {
        "fid": frechet_distance(pool, reference.pool),
        "sfid": None if reference.spatial is None else _sfid(run.features, reference.spatial),
        "is": inception_score(run.features.logits),
        "precision": precision,
        "recall": recall,
        "class_accuracy": _class_accuracy(run) if run.made_by.classes_are_labels else None,
        "fd_fp": None,
        "mse_fp": None,
    }
    if fp is not None:
        same = not fp.errors.any()
        metrics["fd_fp"] = 0.0 if same else frechet_distance(pool, moments(fp.run.features.pool))
        metrics["mse_fp"] = float(fp.errors.mean())
    return metrics


def _check(run: RunFeatures, reference: Reference, fp: FullPrecision | None) -> None:
    count, digest = len(run.features), run.made_by.weights_sha256
    if count == 0:
        raise DataError("found 0 images to evaluate, at least 4 are needed; sample some first")
    if run.labels.shape != (count,):
        raise DataError(f"found {count} images and labels of shape {run.labels.shape}; give one label per image")
    if reference.extractor_digest not in ("", digest):
        raise DataError(
            f"reference was made with extractor weights {reference.extractor_digest[:12]}…, these images are evaluated"
            f" with {digest[:12]}…; make the reference again"
        )
    if fp is None:
        return
    if not np.array_equal(run.labels, fp.run.labels):
        raise DataError(
            f"labels of {count} images differ from those of the {len(fp.run.labels)} full-precision images;"
            " sample both with the same setting"
        )
    if fp.run.made_by != run.made_by:
        raise DataError(
            f"features of the run are made by {run.made_by.extractor} {digest[:12]}…, code {run.made_by.code[:12]}…,"
            f" of full precision by {fp.run.made_by.extractor} {fp.run.made_by.weights_sha256[:12]}…, code"
            f" {fp.run.made_by.code[:12]}…; run `qdit features` again on both"
        )
    if fp.errors.shape != (count,):
        raise DataError(f"found {count} images and paired differences of shape {fp.errors.shape}; compare all images")


def _sfid(features: Features, spatial: Moments) -> float:
    return frechet_distance(moments(features.spatial), spatial)


def _precision_recall(features: Features, reference: Reference) -> tuple[float | None, float | None]:
    if reference.pool_features is None and reference.extractor_digest == "":
        raise DataError("reference has no pool features for precision and recall; import it with import_adm_reference")
    if reference.pool_features is None:
        return None, None
    return precision_recall(reference.pool_features, features.pool)


def _class_accuracy(run: RunFeatures) -> float | None:
    if (run.labels < 0).any():
        return None
    return float((run.features.logits.argmax(axis=1) == run.labels).mean())
