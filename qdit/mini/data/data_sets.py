"""The data sets of the image miniatures, by the names that profiles use."""

from collections.abc import Callable, Mapping

from qdit.core.errors import ConfigError, did_you_mean
from qdit.mini.data import digits, fashion_mnist
from qdit.mini.data.labelled import LabelledImages, Part

DATA_SETS: Mapping[str, Callable[[Part], LabelledImages]] = {
    "digits": digits.load,
    "digits-16": digits.load_upsampled,
    "fashion-mnist": fashion_mnist.load,
}
"""1,797 digits of 8×8, one 16×16 variant of each, and 70,000 photographs of clothes of 28×28.

Only one variant of each digit: the neighbours of an image, by which precision and recall go, would be variants of the
same digit.
"""


def data_set(name: str, split: Part) -> LabelledImages:
    """One part of a data set: `train`, `held_out` or `all`.

    Raises ConfigError for an unknown name, DataError if the files are missing.
    """
    if name not in DATA_SETS:
        raise ConfigError(
            f"unknown data set {name!r}; allowed are {', '.join(DATA_SETS)}{did_you_mean(name, DATA_SETS)}"
        )
    return DATA_SETS[name](split)
