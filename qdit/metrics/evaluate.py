"""Computation of all registered metrics of one run of images, after a check of its inputs."""

import numpy as np

from qdit.core.errors import DataError
from qdit.core.metrics import METRICS, of_images, resolve
from qdit.metrics.features import RunFeatures
from qdit.metrics.images import FullPrecision, Images
from qdit.metrics.judged import Judged
from qdit.metrics.reference import Reference


def evaluate(
    run: RunFeatures, *, reference: Reference, fp: FullPrecision | None, judged: Judged | None = None
) -> dict[str, float | None]:
    """Compute all registered image metrics of N ≥ 4 images from their features; name → value or None.

    Paired metrics are None without `fp`, and exactly 0 for the full-precision run itself. Metrics of networks that
    judge single images are None without their values in `judged`. Raises DataError if there are no images, if counts or
    extractors differ, or if features are not finite.
    """
    _check(run, reference, fp)
    images = Images(run, reference, fp, judged or Judged())
    return {
        name: resolve(metric.function)(images)
        for name, metric in METRICS.items()
        if of_images(metric) and metric.function
    }


def _check(run: RunFeatures, reference: Reference, fp: FullPrecision | None) -> None:
    count, digest = len(run.features), run.made_by.weights_sha256
    if count == 0:
        raise DataError("found 0 images to evaluate, at least 4 are needed; sample some first")
    if run.labels.shape != (count,):
        raise DataError(f"found {count} images and labels of shape {run.labels.shape}; give one label per image")
    if reference.extractor_digest not in ("", digest):
        name = "" if reference.origin is None else f"{reference.origin.extractor} "
        raise DataError(
            f"reference was made with extractor {name}weights {reference.extractor_digest[:12]}…, these images are"
            f" evaluated with {run.made_by.extractor} {digest[:12]}…; make the reference again"
        )
    if fp is None:
        return
    known = run.labels >= 0  # of imported images the labels may be unknown
    if len(fp.run.labels) != count or not np.array_equal(run.labels[known], fp.run.labels[known]):
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
    if (shape := fp.pixels.errors.shape) != (count,):
        raise DataError(f"found {count} images and paired differences of shape {shape}; compare all images")
