"""The step real images → reference statistics, for the digits of the mini profile."""

from pathlib import Path

from qdit.core.pixels import to_uint8
from qdit.metrics.extractors import load_extractor
from qdit.metrics.reference import build_reference, save_reference
from qdit.mini.data.digits import data_set


def make_digits_reference(data: str, extractor: str, weights: Path, out: Path) -> None:
    """Reference statistics of all 1,797 images of a data set: `digits` (8×8) or `digits-16`."""
    images = to_uint8(data_set(data, "all").images)
    save_reference(out, build_reference(images, load_extractor(extractor, weights), source=data))
