"""Images in memory as what `evaluate` takes, without the files in between."""

import numpy as np

from qdit.metrics.extraction import made_by
from qdit.metrics.features import Extractor, RunFeatures
from qdit.metrics.images import FullPrecision
from qdit.metrics.paired import compare_images


def scored(images: np.ndarray, labels: np.ndarray, extractor: Extractor) -> RunFeatures:
    return RunFeatures(extractor(images), labels, made_by(extractor))


def beside(full: np.ndarray, labels: np.ndarray, images: np.ndarray, extractor: Extractor) -> FullPrecision:
    """Full-precision images as the pair of some images."""
    return FullPrecision(scored(full, labels, extractor), compare_images(images, full))
