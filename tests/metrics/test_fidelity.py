"""Our metrics against torch-fidelity's own, from images to values."""

import numpy as np
import pytest

from qdit.metrics.evaluate import evaluate
from qdit.metrics.fidelity import fidelity_metrics, register
from qdit.metrics.reference import build_reference
from qdit.mini.classifier import ClassifierExtractor
from tests.metrics.scored import scored


def test_every_shared_metric_agrees(extractor: ClassifierExtractor, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    generated = np.clip(images[:500] + np.random.default_rng(0).normal(0, 40, (500, 1, 8, 8)), 0, 255).astype(np.uint8)
    real = images[500:1200]
    run = scored(generated, labels[:500], extractor)
    ours = evaluate(run, reference=build_reference(real, extractor), fp=None)
    theirs = fidelity_metrics(generated, real, extractor=extractor)
    assert theirs.keys() == {"fid", "sfid", "is", "precision", "recall"}
    # torch-fidelity takes the covariance of float32 features and float32 distances.
    assert ours["fid"] == pytest.approx(theirs["fid"], rel=1e-4)
    assert ours["sfid"] == pytest.approx(theirs["sfid"], rel=1e-4)
    assert ours["is"] == pytest.approx(theirs["is"], rel=1e-6)
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=0.004)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=0.004)


def test_registering_twice_is_harmless_and_the_name_holds_the_digest(extractor: ClassifierExtractor) -> None:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    name = register(extractor)
    assert register(extractor) == name == f"digit-classifier-{extractor.digest[:12]}"
    assert name in FEATURE_EXTRACTORS_REGISTRY
