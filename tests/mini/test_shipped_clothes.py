"""What is shipped of dit-fashion: weights, classifier, reference and quality. Few tests need the photographs."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.files import load_tensors, sha256_file
from qdit.core.pixels import to_uint8
from qdit.metrics.reference import Reference, load_reference
from qdit.metrics.statistics import moments
from qdit.mini.classifier import load_classifier
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.fashion_mnist import find_folder
from qdit.mini.reference import make_mini_reference
from qdit.mini.training.quality import draw
from qdit.models.loading import load_dit
from qdit.quant.sites import prepare_inference
from qdit.sampling.protocol import Protocol
from qdit.workflow.profile import load_profile

ROOT = Path(__file__).parents[2]
CLASSIFIER = ROOT / "weights" / "fashion-classifier.safetensors"
REFERENCE = ROOT / "weights" / "fashion-mnist-reference.npz"
DIT = ROOT / "weights" / "dit-fashion-natural.safetensors"
STUDY = ROOT / "results" / "studies" / "dit-fashion-quality.json"


def has_data() -> bool:
    """Whether the four files of Fashion-MNIST are there."""
    try:
        find_folder()
    except DataError:
        return False
    return True


WITH_DATA = pytest.mark.skipif(not has_data(), reason="needs Fashion-MNIST: qdit data fashion-mnist")


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The shipped reference."""
    return load_reference(REFERENCE)


def test_the_classifier_is_accurate_enough() -> None:
    assert load_tensors(CLASSIFIER)[1]["held_out_accuracy"] >= 0.92


@WITH_DATA
def test_its_accuracy_is_that_of_the_test_images() -> None:
    data = data_set("fashion-mnist", "held_out")
    logits = load_classifier(CLASSIFIER, name="fashion-classifier")(to_uint8(data.images)).logits
    found = (logits.argmax(axis=1) == data.labels.numpy()).mean()
    assert found == pytest.approx(load_tensors(CLASSIFIER)[1]["held_out_accuracy"], abs=5e-4)


def test_its_features_have_the_shapes_of_the_other_classifiers() -> None:
    features = load_classifier(CLASSIFIER)(np.zeros((3, 1, 28, 28), np.uint8))
    assert [features.pool.shape, features.spatial.shape, features.logits.shape] == [(3, 64), (3, 112), (3, 10)]


def test_the_reference_is_of_ten_thousand_images_and_the_shipped_classifier(reference: Reference) -> None:
    assert reference.origin is not None and reference.pool_features is not None and reference.spatial is not None
    assert reference.origin.source == "fashion-mnist"
    assert reference.origin.extractor == "fashion-classifier"
    assert reference.extractor_digest == sha256_file(CLASSIFIER)
    assert reference.pool_features.shape == (10_000, 64)
    assert reference.pool_features.var(axis=0).mean() == pytest.approx(1, abs=0.1)
    found = moments(reference.pool_features)
    np.testing.assert_allclose(reference.pool.mean, found.mean, rtol=1e-6)
    np.testing.assert_allclose(reference.pool.covariance, found.covariance, rtol=1e-6, atol=1e-9)


@WITH_DATA
def test_the_reference_is_made_again_from_the_photographs(reference: Reference, tmp_path: Path) -> None:
    make_mini_reference("fashion-mnist", "fashion-classifier", CLASSIFIER, tmp_path / "reference.npz")
    found = load_reference(tmp_path / "reference.npz")
    assert found.origin is not None and reference.origin is not None
    assert found.origin.source_sha256 == reference.origin.source_sha256
    np.testing.assert_allclose(found.pool_features, reference.pool_features, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.pool.covariance, reference.pool.covariance, rtol=1e-3, atol=1e-3)


def test_no_shipped_file_is_large() -> None:
    assert max(path.stat().st_size for path in (CLASSIFIER, REFERENCE, DIT)) < 12_000_000


def test_the_recorded_study_is_of_the_shipped_files_and_meets_the_rule() -> None:
    study = json.loads(STUDY.read_text())
    assert study["weights"]["sha256"] == sha256_file(DIT)
    assert study["extractor"]["sha256"] == sha256_file(CLASSIFIER)
    figures = study["figures"]
    scan, memorising = figures["guidance_scan_ddim_20"], figures["memorising"]
    scale = min(("1", "1.5"), key=lambda scale: scan[scale]["fid"])
    assert scan[scale]["class_accuracy"] >= 0.9 * figures["held_out_class_accuracy"]
    middle = memorising["quantiles"].index(50)
    samples, held_out = (memorising[f"{who}_to_nearest_training_image"][middle] for who in ("samples", "held_out"))
    assert samples >= 0.85 * held_out
    settings = [entry for entry in load_profile("mini")["settings"].values() if entry["model"] == "dit-fashion"]
    assert [entry["cfg_scale"] for entry in settings] == [float(scale)]


def test_few_samples_already_look_like_the_clothes_asked_for() -> None:
    pictures = draw(prepare_inference(load_dit(DIT)), Protocol("ddim", 10, 1.5, seed=2), count=64)
    logits = load_classifier(CLASSIFIER)(to_uint8(pictures.images)).logits
    assert (logits.argmax(axis=1) == pictures.labels.numpy()).mean() >= 0.75
