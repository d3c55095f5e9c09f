"""The shipped mini DiT is good enough to learn from; its full measurement is slow and kept in results/studies."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdit.artifacts import sha256_file
from qdit.data.digits import load, to_uint8
from qdit.metrics.features import load_extractor
from qdit.models.loading import load_model
from qdit.quant.sites import prepare_inference
from qdit.sampling.protocol import Protocol
from qdit.training.quality import draw, mean_split_fid, measure, nearest

ROOT = Path(__file__).parents[2]
NATURAL = ROOT / "weights" / "dit-digits-natural.safetensors"
CLASSIFIER = ROOT / "weights" / "digit-classifier.safetensors"


def meets_the_bar(figures):
    """The quality that the mini profile promises."""
    memorising = figures["memorising"]
    middle = memorising["quantiles"].index(50)
    samples, held_out = (memorising[f"{who}_to_nearest_training_digit"][middle] for who in ("samples", "held_out"))
    return {
        "FID at most 2.5 times that of two halves": figures["ddim_20"]["ratio"] <= 2.5,
        "class asked for in at least 98 %": figures["ddim_20"]["class_accuracy"] >= 0.98,
        "DDPM's FID at most 1.3 times DDIM's": figures["ddpm_50"]["fid"] <= 1.3 * figures["ddim_50"]["fid"],
        "as far from training digits as held-out digits are": samples >= 0.85 * held_out,
    }


def test_the_recorded_study_is_of_the_shipped_files_and_meets_the_bar():
    study = json.loads((ROOT / "results" / "studies" / "dit-digits-quality.json").read_text())
    assert study["weights"]["sha256"] == sha256_file(NATURAL)
    assert study["extractor"]["sha256"] == sha256_file(CLASSIFIER)
    assert meets_the_bar(study["figures"]) == dict.fromkeys(meets_the_bar(study["figures"]), True)


def test_few_samples_already_look_like_the_digits_asked_for():
    pictures = draw(prepare_inference(load_model(NATURAL)), Protocol("ddim", 10, 1.0, seed=2), count=128)
    features = load_extractor("digit-classifier", CLASSIFIER)(to_uint8(pictures.images))
    assert (features.logits.argmax(axis=1) == pictures.labels.numpy()).mean() >= 0.93


def test_split_fid_of_the_digits_themselves_is_that_of_halves():
    digits = load_extractor("digit-classifier", CLASSIFIER)(to_uint8(load("all").images)).pool
    fid, halves = mean_split_fid(digits[::2], digits)
    assert 0 < fid < 2 * halves
    assert mean_split_fid(digits + 1, digits)[0] > 10 * halves


def test_nearest_is_the_smallest_distance():
    train = load("train").images
    assert np.allclose(nearest(train[:5] + 0.01, train), 0.01 * 8, atol=1e-3)


@pytest.mark.slow
def test_measured_again_the_shipped_weights_meet_the_bar():
    model = prepare_inference(load_model(NATURAL))
    found = meets_the_bar(measure(model, load_extractor("digit-classifier", CLASSIFIER)))
    assert all(found.values()), found
