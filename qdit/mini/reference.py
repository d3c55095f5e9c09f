"""Compute reference statistics (moments of features) from the real images of the mini profile's data sets."""

from pathlib import Path

from qdit.core.pixels import to_uint8
from qdit.metrics.extractors import load_extractor
from qdit.metrics.reference import build_reference, save_reference
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.labelled import Part

PARTS: dict[str, Part] = {"fashion-mnist": "held_out"}
"""Data set → the part that its reference has. The others have all their images, because they are few."""


def make_mini_reference(data: str, extractor: str, weights: Path, out: Path) -> None:
    """Write the reference statistics of a data set, computed with an extractor.

    They cover all 1,797 images of `digits` or `digits-16`, or the 10,000 test images of `fashion-mnist`.
    """
    images = to_uint8(data_set(data, PARTS.get(data, "all")).images)
    save_reference(out, build_reference(images, load_extractor(extractor, weights), source=data))
