"""All metrics of a run, end to end, on real digits and the shipped classifier."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.metrics.evaluate import evaluate
from qdit.metrics.features import Features, Images
from qdit.metrics.reference import Reference, build_reference
from qdit.mini.classifier import ClassifierExtractor
from tests.metrics.scored import beside, scored
from tests.preloaded import python

Digits = tuple[np.ndarray, np.ndarray]
JUDGED = ("clip_score", "image_reward", "fd_dino", "fd_dino_fp")
KEYS = ["fid", "sfid", "is", "precision", "recall", "class_accuracy", "fd_fp", "mse_fp"]
KEYS += ["mind_fp", "psnr_fp", "ssim_fp", "lpips_fp", *JUDGED, "mind"]


@pytest.fixture(scope="module")
def reference(extractor: ClassifierExtractor, digits: Digits) -> Reference:
    return build_reference(digits[0][898:], extractor)


@pytest.fixture(scope="module")
def noisy(digits: Digits) -> np.ndarray:
    images = digits[0][:898]
    return np.clip(images + 60 * np.random.default_rng(0).normal(size=images.shape), 0, 255).astype(np.uint8)


class Nameless:
    """The classifier as an extractor whose classes are not the labels, or whose features are not finite."""

    name, classes_are_labels = "nameless", False

    def __init__(self, inner: ClassifierExtractor, *, broken: bool = False) -> None:
        self.inner, self.broken, self.digest = inner, broken, inner.digest

    def __call__(self, images: Images) -> Features:
        features = self.inner(images)
        return replace(features, spatial=features.spatial * np.nan) if self.broken else features


def test_real_digits_score_well_and_noise_does_not(
    extractor: ClassifierExtractor, reference: Reference, digits: Digits, noisy: np.ndarray
) -> None:
    images, labels = digits[0][:898], digits[1][:898]
    good = evaluate(
        scored(images, labels, extractor), reference=reference, fp=beside(images, labels, images, extractor)
    )
    bad = evaluate(scored(noisy, labels, extractor), reference=reference, fp=beside(images, labels, noisy, extractor))
    assert list(good) == list(bad) == KEYS
    assert all(type(value) is float for name, value in good.items() if name not in ("psnr_fp", "lpips_fp", *JUDGED))
    json.dumps(good, allow_nan=False)
    assert good["fid"] < 1
    assert bad["fid"] > 10 * good["fid"]
    assert bad["sfid"] > 3 * good["sfid"]
    assert good["is"] > 9 > bad["is"]
    assert good["precision"] > 0.6 > bad["precision"]
    assert good["recall"] > 0.6
    assert good["class_accuracy"] > 0.99 > bad["class_accuracy"]
    assert (good["fd_fp"], good["mse_fp"], good["mind_fp"], good["ssim_fp"]) == (0.0, 0.0, 0.0, 1.0)
    assert good["psnr_fp"] is None and bad["ssim_fp"] < 0.9 and bad["mind"] > 10 * good["mind"]
    assert bad["fd_fp"] > 1
    assert bad["mse_fp"] == pytest.approx(np.mean(((noisy - images.astype(float)) / 255) ** 2))


def test_without_full_precision_the_paired_metrics_are_missing(
    extractor: ClassifierExtractor, reference: Reference, digits: Digits
) -> None:
    metrics = evaluate(scored(digits[0][:50], digits[1][:50], extractor), reference=reference, fp=None)
    assert metrics["fd_fp"] is None
    assert metrics["mse_fp"] is None


def test_class_accuracy_is_for_the_asked_labels(
    extractor: ClassifierExtractor, reference: Reference, digits: Digits
) -> None:
    images = digits[0][:100]
    labels = extractor(images).logits.argmax(axis=1)
    labels[:30] = (labels[:30] + 1) % 10
    asked = evaluate(scored(images, labels, extractor), reference=reference, fp=None)
    assert asked["class_accuracy"] == pytest.approx(0.7)
    other = evaluate(scored(images, labels, Nameless(extractor)), reference=reference, fp=None)
    assert other["class_accuracy"] is None


def test_what_does_not_fit_together_is_refused(
    extractor: ClassifierExtractor, reference: Reference, digits: Digits
) -> None:
    images, labels = digits[0][:20], digits[1][:20]
    run = scored(images, labels, extractor)
    fp = beside(images, labels, images, extractor)
    empty = replace(run, features=Features(*(np.zeros((0, 2)) for _ in range(3))), labels=labels[:0])
    shuffled = replace(fp, run=replace(run, labels=labels[::-1].copy()))
    older = replace(fp, run=replace(run, made_by=replace(run.made_by, code="old")))
    other = replace(fp, run=replace(run, made_by=replace(run.made_by, weights_sha256="ffff")))
    unnamed = replace(reference, pool_features=None, extractor_digest="")
    stale = replace(reference, extractor_digest="ffff")
    fewer = replace(fp, pixels=replace(fp.pixels, errors=fp.pixels.errors[:5]))
    cases = [
        (empty, reference, None, "found 0 images to evaluate"),
        (scored(images[:3], labels[:3], extractor), reference, None, "found 3 images, at least 4"),
        (replace(run, labels=labels[:19]), reference, None, "one label per image"),
        (scored(images[:19], labels[:19], extractor), reference, fp, "19 images differ .* 20 full-precision images"),
        (run, reference, shuffled, "same setting"),
        (run, reference, older, "code old.*run `qdit features` again on both"),
        (run, reference, other, "full precision by digit-classifier ffff.*run `qdit features` again"),
        (run, reference, fewer, "paired differences of shape"),
        (run, stale, None, "make the reference again"),
        (run, unnamed, None, "import_adm_reference"),
        (scored(images, labels, Nameless(extractor, broken=True)), reference, None, "NaN or infinite"),
    ]
    for case, real, full, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            evaluate(case, reference=real, fp=full)
        assert "\n" not in str(caught.value)


def test_evaluating_loads_no_torch() -> None:
    code = "import sys, qdit.cli.main, qdit.metrics.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, "of a program of its own"


def test_torch_fidelity_is_not_imported_on_the_way() -> None:
    code = (
        "import sys, qdit.metrics.evaluate, qdit.metrics.samples, qdit.metrics.fidelity, qdit.mini.classifier;"
        "sys.exit('torch_fidelity' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert python(["-c", code]).returncode == 0
