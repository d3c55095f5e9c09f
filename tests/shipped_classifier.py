"""Fixtures of the metrics and of the miniature: the shipped classifier and the digits as uint8 images."""

from pathlib import Path

import numpy as np
import pytest

from qdit.core.pixels import to_uint8
from qdit.mini.classifier import ClassifierExtractor, load_classifier
from qdit.mini.data.digits import load

WEIGHTS = Path(__file__).parents[1] / "weights" / "digit-classifier.safetensors"


@pytest.fixture(scope="session")
def weights() -> Path:
    return WEIGHTS


@pytest.fixture(scope="session")
def extractor() -> ClassifierExtractor:
    return load_classifier(WEIGHTS)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load("all")
    return to_uint8(data.images).numpy(), data.labels.numpy()


@pytest.fixture(scope="session")
def held_out() -> tuple[np.ndarray, np.ndarray]:
    data = load("held_out")
    return to_uint8(data.images).numpy(), data.labels.numpy()
