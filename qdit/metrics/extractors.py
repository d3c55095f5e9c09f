"""Loading of a feature extractor by its name."""

import importlib
from pathlib import Path

from qdit.metrics.extractor_names import extractor_module
from qdit.metrics.features import Extractor


def load_extractor(name: str, weights: Path, *, sha256: str | None = None, device: str = "cpu") -> Extractor:
    """Load the extractor of this name with its weights. With `sha256` the file's bytes are checked first.

    `device` is where Inception runs; the small classifiers always run on the CPU.
    Raises ConfigError on an unknown name and CheckpointError on weights that cannot be used.
    """
    # Imported by name: Inception's module imports torch-fidelity and torchvision, which takes seconds.
    module = importlib.import_module(extractor_module(name))
    extractor: Extractor = module.load_named(name, weights, sha256=sha256, device=device)
    return extractor
