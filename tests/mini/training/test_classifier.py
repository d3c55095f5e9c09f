"""Training of the small classifiers: learns, repeats itself to the byte, depends on no global generator."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.core.files import load_tensors
from qdit.core.pixels import to_uint8
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.classifier import Classifier, ClassifierConfig, load_classifier
from qdit.mini.data.digits import load
from qdit.mini.data.labelled import LabelledImages, Part
from qdit.mini.training import classifier
from qdit.mini.training.classifier import (
    DEFAULTS,
    ClassifierTraining,
    augment,
    fold,
    initialize,
    normalize,
    normalize_scales,
    shipped_config,
    train_classifier,
)

SHORT = ClassifierTraining(epochs=8)
SMALL = ClassifierConfig(channels=16, features=32)


def test_short_training_learns_and_repeats_itself_to_the_byte(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = train_classifier(tmp_path / "a", seed=3, config=SMALL, training=SHORT)
    torch.manual_seed(2)
    second = train_classifier(tmp_path / "b", seed=3, config=SMALL, training=SHORT)
    other = train_classifier(tmp_path / "c", seed=4, config=SMALL, training=SHORT)
    assert first.name == "digit-classifier.safetensors"
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    metadata = load_tensors(first)[1]
    assert metadata["held_out_accuracy"] > 0.85
    assert metadata["classifier"] == {"channels": 16, "features": 32, "classes": 10}
    assert metadata["training"]["seed"] == 3
    held_out = load("held_out")
    logits = load_classifier(first)(to_uint8(held_out.images)).logits
    found = (logits.argmax(axis=1) == held_out.labels.numpy()).mean()
    assert found == pytest.approx(metadata["held_out_accuracy"])


@pytest.mark.slow
def test_the_larger_classifier_learns_upsampled_digits(tmp_path: Path) -> None:
    path = train_classifier(tmp_path, seed=3, config=ClassifierConfig(16, 32, size=16), training=SHORT)
    assert path.name == "digit-classifier-16.safetensors"
    metadata = load_tensors(path)[1]
    assert metadata["held_out_accuracy"] > 0.8
    assert metadata["classifier"] == {"channels": 16, "features": 32, "classes": 10, "size": 16}
    assert load_classifier(path).name == "digit-classifier-16"


def test_augmentation_of_strength_zero_changes_nothing() -> None:
    images = load("train").images[:10]
    none = ClassifierTraining(rotation=0, scaling=0, shift=0, noise=0)
    torch.testing.assert_close(augment(images, torch_generator(0, Purpose.TRAINING), none), images)


def test_augmentation_shifts_at_most_as_far_as_it_says() -> None:
    images = torch.full((200, 1, 8, 8), -1.0)
    images[:, :, 3:5, 3:5] = 1
    shifts = ClassifierTraining(rotation=0, scaling=0, shift=1, noise=0)
    moved = augment(images, torch_generator(0, Purpose.TRAINING), shifts)
    assert moved.min() >= -1 - 1e-5
    torch.testing.assert_close(moved[:, :, [0, 1, 6, 7]], torch.full((200, 1, 4, 8), -1.0))
    centre = (moved + 1).sum(dim=(1, 2)) @ torch.arange(8.0) / (moved + 1).sum(dim=(1, 2, 3))
    assert 0.9 < (centre - 3.5).abs().max() <= 1.0 + 1e-4


def test_normalizing_scales_keeps_the_logits() -> None:
    network = Classifier(SMALL)
    initialize(network, torch_generator(0, Purpose.TRAINING))
    images = to_uint8(load("train").images[:200])
    with torch.no_grad():
        before = network.of_uint8(images)
        normalize_scales(network, images)
        after = network.of_uint8(images)
    torch.testing.assert_close(after[2], before[2], rtol=1e-4, atol=1e-4)
    for layer in after[:2]:
        assert layer.var(dim=0).mean().item() == pytest.approx(1, rel=1e-3)


def test_folded_normalization_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Classifier(ClassifierConfig(channels=8, features=16, size=28))
    generator = torch_generator(0, Purpose.TRAINING)
    initialize(network, generator)
    names = list(network.state_dict())
    normalize(network)
    images = torch.rand(40, 1, 28, 28, generator=generator) * 2 - 1
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
            torch.nn.init.uniform_(module.bias, -1, 1, generator=generator)
    with torch.no_grad():
        for _ in range(5):
            network(images)  # moves the running mean and variance
        expected = network.eval()(images)
        fold(network)
        found = network(images)
    assert list(network.state_dict()) == names
    for layer, of in zip(found, expected, strict=True):
        torch.testing.assert_close(layer, of, rtol=1e-4, atol=1e-4)


def stripes(part: Part) -> LabelledImages:
    """Ten classes of 28×28 images that are easily told apart: a bright row whose place is the label, and noise."""
    count = {"train": 400, "held_out": 100, "all": 500}[part]
    draw = torch.Generator().manual_seed(count)
    labels = torch.randint(10, (count,), generator=draw)
    images = torch.rand(count, 1, 28, 28, generator=draw) * 0.2 - 1
    images[torch.arange(count), 0, 4 + 2 * labels] = 1
    return LabelledImages(images, labels)


def test_a_classifier_of_clothes_learns_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "data_set", lambda name, part: stripes(part))
    config = ClassifierConfig(channels=8, features=16, size=28)
    training = replace(DEFAULTS[28][1], epochs=12, batch_size=32, learning_rate=1e-2)
    first, second = (train_classifier(tmp_path / n, seed=1, config=config, training=training) for n in ("a", "b"))
    assert first.name == "fashion-classifier.safetensors"
    assert first.read_bytes() == second.read_bytes()
    metadata = load_tensors(first)[1]
    assert metadata["training"]["normalized"] is True
    assert metadata["held_out_accuracy"] > 0.8
    held_out = stripes("held_out")
    logits = load_classifier(first)(to_uint8(held_out.images)).logits
    found = (logits.argmax(axis=1) == held_out.labels.numpy()).mean()
    assert found == pytest.approx(metadata["held_out_accuracy"])


def test_the_data_set_decides_the_shape() -> None:
    assert [shipped_config(name).size for name in ("digits", "digits-16", "fashion-mnist")] == [8, 16, 28]
    assert shipped_config("digits") == ClassifierConfig()
    with pytest.raises(ConfigError, match="unknown data set 'fashion'; allowed are digits, digits-16, fashion-mnist"):
        shipped_config("fashion")
