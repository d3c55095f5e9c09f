"""Inputs of the image metrics: features of a run, the reference, and the full-precision run with the same noise."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qdit.core.errors import DataError
from qdit.metrics.features import RunFeatures
from qdit.metrics.judged import Judged
from qdit.metrics.paired import PixelComparison
from qdit.metrics.reference import Reference
from qdit.metrics.scores import log_probabilities, precision_recall
from qdit.metrics.sliced import Sliced, sliced_distance
from qdit.metrics.statistics import Moments, moments


@dataclass(frozen=True)
class FullPrecision:
    """The full-precision run of the same setting: its features, and the comparison of each image with its image.

    `pixels` compares pixels. `lpips` (N,) is the LPIPS of each pair, if it was computed.
    """

    run: RunFeatures
    pixels: PixelComparison
    lpips: np.ndarray | None = None

    @property
    def is_same(self) -> bool:
        """Whether the compared images are the full-precision images themselves."""
        return not self.pixels.errors.any()


@dataclass(frozen=True)
class Images:
    """All inputs of the image metrics: features of N images, reference, full precision, and the judges' values.

    Values that several metrics need are computed once.
    """

    run: RunFeatures
    reference: Reference
    fp: FullPrecision | None
    judged: Judged = field(default_factory=Judged)

    @cached_property
    def pool(self) -> Moments:
        """Mean and covariance of the pool features."""
        return moments(self.run.features.pool)

    @cached_property
    def sliced_to_reference(self) -> Sliced | None:
        """MIND of the pool features to those of the reference. None if the reference has statistics only."""
        if self.reference.pool_features is None:
            return None
        return sliced_distance(self.run.features.pool, self.reference.pool_features)

    @cached_property
    def sliced_to_full_precision(self) -> Sliced | None:
        """MIND of the pool features to those of full precision. It is exactly 0 for full precision itself."""
        if self.fp is None:
            return None
        if self.fp.is_same:
            return Sliced(0.0, np.zeros(len(self.run.features)))
        return sliced_distance(self.run.features.pool, self.fp.run.features.pool, paired=True)

    @cached_property
    def precision_recall(self) -> tuple[float | None, float | None]:
        """Precision and recall of the pool features. None if the reference has statistics only.

        DataError for a file of ADM whose images were not imported.
        """
        if self.reference.pool_features is None and self.reference.extractor_digest == "":
            raise DataError(
                "reference has no pool features for precision and recall; import it with import_adm_reference"
            )
        if self.reference.pool_features is None:
            return None, None
        return precision_recall(self.reference.pool_features, self.run.features.pool)

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """Log-probabilities (N, classes) from the extractor's logits."""
        return log_probabilities(self.run.features.logits)

    @cached_property
    def has_classes(self) -> bool:
        """Whether the classifier's classes are the labels of the images, and every image has a label."""
        return bool(self.run.made_by.classes_are_labels and (self.run.labels >= 0).all())

    @cached_property
    def has_label_class(self) -> np.ndarray:
        """Whether the classifier assigns each image to its label: bool (N,)."""
        return np.asarray(self.run.features.logits.argmax(axis=1) == self.run.labels)
