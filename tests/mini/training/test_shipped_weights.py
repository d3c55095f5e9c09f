"""The shipped DiTs of digits are good enough to learn from; their full measurement is slow, kept in results/studies."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import ConfigError
from qdit.core.files import sha256_file
from qdit.core.pixels import to_uint8
from qdit.metrics.extractors import load_extractor
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.digits import load
from qdit.mini.data.labelled import LabelledImages
from qdit.mini.training.quality import SUBJECTS, draw, draw_gallery, mean_split_fid, measure, nearest, subject_of
from qdit.models.loading import load_model
from qdit.quant.sites import prepare_inference
from qdit.sampling.protocol import Protocol

ROOT = Path(__file__).parents[3]
CLASSIFIER = ROOT / "weights" / "digit-classifier.safetensors"
MODELS = pytest.mark.parametrize("name", ["dit-digits", "dit-digits-16"])
OBEDIENCE = {"dit-digits": 0.98, "dit-digits-16": 0.89}
"""Least fraction of samples in which the classifier sees the class asked for; at 16×16 0.9 of held-out digits'."""


def natural(name):
    """Natural form of a model as shipped."""
    return ROOT / "weights" / f"{name}-natural.safetensors"


def classifier(name):
    """Weights of the extractor that scores a model."""
    return ROOT / "weights" / f"{SUBJECTS[name].extractor}.safetensors"


def meets_the_bar(name, figures):
    """The quality that the mini profile promises of a model."""
    memorising = figures["memorising"]
    middle = memorising["quantiles"].index(50)
    samples, held_out = (memorising[f"{who}_to_nearest_training_image"][middle] for who in ("samples", "held_out"))
    return {
        "FID at most 2.5 times that of two halves": figures["ddim_20"]["ratio"] <= 2.5,
        "class asked for often enough": figures["ddim_20"]["class_accuracy"] >= OBEDIENCE[name],
        "DDPM's FID at most 1.3 times DDIM's": figures["ddpm_50"]["fid"] <= 1.3 * figures["ddim_50"]["fid"],
        "as far from training digits as held-out digits are": samples >= 0.85 * held_out,
    }


@MODELS
def test_the_recorded_study_is_of_the_shipped_files_and_meets_the_bar(name):
    study = json.loads((ROOT / "results" / "studies" / f"{name}-quality.json").read_text())
    assert study["weights"]["sha256"] == sha256_file(natural(name))
    assert study["extractor"]["sha256"] == sha256_file(classifier(name))
    found = meets_the_bar(name, study["figures"])
    assert all(found.values()), found


@MODELS
def test_few_samples_already_look_like_the_digits_asked_for(name):
    pictures = draw(prepare_inference(load_model(natural(name))), Protocol("ddim", 10, 1.0, seed=2), count=128)
    features = load_extractor(SUBJECTS[name].extractor, classifier(name))(to_uint8(pictures.images))
    assert (features.logits.argmax(axis=1) == pictures.labels.numpy()).mean() >= OBEDIENCE[name] - 0.05


def test_split_fid_of_the_digits_themselves_is_that_of_halves():
    digits = load_extractor("digit-classifier", CLASSIFIER)(to_uint8(load("all").images)).pool
    fid, halves = mean_split_fid(digits[::2], digits)
    assert 0 < fid < 2 * halves
    assert mean_split_fid(digits + 1, digits)[0] > 10 * halves


def test_nearest_is_the_smallest_distance():
    train = load("train").images
    assert np.allclose(nearest(train[:5] + 0.01, train), 0.01 * 8, atol=1e-3)


def test_the_gallery_is_a_picture_of_all_classes(tmp_path):
    held_out = data_set("digits-16", "held_out")
    path = tmp_path / "gallery.png"
    draw_gallery(held_out, LabelledImages(held_out.images[:128], held_out.labels[:128]), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 40_000


def test_unknown_subject():
    allowed = "dit-digits, dit-digits-16, dit-fashion"
    with pytest.raises(ConfigError, match=f"allowed are {allowed}; did you mean 'dit-digits-16'"):
        subject_of("dit-digits16")


@pytest.mark.slow
@MODELS
def test_measured_again_the_shipped_weights_meet_the_bar(name):
    model = prepare_inference(load_model(natural(name)))
    figures, _ = measure(name, model, load_extractor(SUBJECTS[name].extractor, classifier(name)))
    found = meets_the_bar(name, figures)
    assert all(found.values()), found
