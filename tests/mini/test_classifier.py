"""The shipped classifier and its features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import load_tensors, save_tensors, sha256_file
from qdit.core.pixels import to_uint8
from qdit.metrics.extractors import load_extractor
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.mini.classifier import (
    BATCH,
    NAMES,
    Classifier,
    ClassifierConfig,
    ClassifierExtractor,
    load_classifier,
    to_metadata,
)
from qdit.mini.data.data_sets import data_set
from qdit.models.manifest import write_manifest

Digits = tuple[np.ndarray, np.ndarray]


LARGER = Path(__file__).parents[2] / "weights" / "digit-classifier-16.safetensors"


@pytest.fixture(scope="module")
def larger() -> ClassifierExtractor:
    return load_classifier(LARGER)


def test_the_shipped_weights_are_accurate_on_held_out_digits(
    weights: Path, extractor: ClassifierExtractor, held_out: Digits
) -> None:
    images, labels = held_out
    found = (extractor(images).logits.argmax(axis=1) == labels).mean()
    assert len(labels) == 360
    assert found >= 0.985
    assert found == pytest.approx(load_tensors(weights)[1]["held_out_accuracy"])
    assert weights.stat().st_size < 2**20


def test_features_have_the_documented_shapes_and_scale(extractor: ClassifierExtractor, digits: Digits) -> None:
    features = extractor(digits[0])
    assert features.pool.shape == (1797, 64)
    assert features.spatial.shape == (1797, 4 * 4 * 7)
    assert features.logits.shape == (1797, 10)
    assert {x.dtype for x in (features.pool, features.spatial, features.logits)} == {np.dtype(np.float32)}
    assert features.pool.var(axis=0).mean() == pytest.approx(1, abs=0.05)
    assert features.spatial.var(axis=0).mean() == pytest.approx(1, abs=0.05)


def test_features_of_the_shipped_weights_are_pinned(extractor: ClassifierExtractor, digits: Digits) -> None:
    """Another forward pass would make other numbers under the same name."""
    features = extractor(digits[0][:1])
    np.testing.assert_allclose(features.pool[0, :3], [1.88913, 0.87725, 0.92993], atol=1e-4)
    np.testing.assert_allclose(features.spatial[0, :3], [-0.04082, -0.16074, 0.24181], atol=1e-4)
    np.testing.assert_allclose(features.logits[0, :3], [-2.6199, -1.64632, 14.01895], atol=1e-3)


def test_logits_are_the_pool_times_the_weight_without_bias(extractor: ClassifierExtractor, digits: Digits) -> None:
    features = extractor(digits[0][:20])
    expected = features.pool @ extractor.network.fc.weight.numpy().T
    np.testing.assert_allclose(features.logits, expected, atol=1e-4)


def test_spatial_is_the_third_convolution_cut_to_seven_channels_channels_last(
    extractor: ClassifierExtractor, digits: Digits
) -> None:
    seen: list[torch.Tensor] = []
    hook = extractor.network.conv3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = extractor(digits[0][:3])
    hook.remove()
    block = extractor.network.spatial_scale * torch.nn.functional.gelu(seen[0][:3])
    grid = features.spatial.reshape(3, 4, 4, 7)
    for channel in range(7):
        np.testing.assert_allclose(grid[..., channel], block[:, channel].numpy(), atol=1e-5)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1])
def test_features_do_not_depend_on_how_many_images_there_are(
    extractor: ClassifierExtractor, digits: Digits, count: int
) -> None:
    many, few = extractor(digits[0][: 2 * BATCH]), extractor(digits[0][:count])
    np.testing.assert_array_equal(few.pool, many.pool[:count])
    np.testing.assert_array_equal(few.spatial, many.spatial[:count])
    np.testing.assert_array_equal(few.logits, many.logits[:count])


def test_the_distance_grows_with_noise(extractor: ClassifierExtractor, digits: Digits) -> None:
    images = digits[0]
    real = moments(extractor(images).pool)
    noise = np.random.default_rng(0).normal(size=images.shape)
    distances = []
    for strength in (2, 8, 32, 128):
        noisy = np.clip(images + strength * noise, 0, 255).astype(np.uint8)
        distances.append(frechet_distance(moments(extractor(noisy).pool), real))
    assert distances == sorted(distances)
    assert distances[-1] > 100 * distances[0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 8, 9), np.uint8), "shape \\(2, 1, 8, 9\\), allowed is \\(N, 1, 8, 8\\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "allowed is \\(N, 1, 8, 8\\)"),
        (np.zeros((2, 8, 8), np.uint8), "allowed is \\(N, 1, 8, 8\\)"),
        (np.zeros((2, 1, 8, 8), np.float32), "float32, allowed is uint8"),
        (torch.zeros(2, 1, 8, 8), "float32, allowed is uint8"),
        (np.zeros((0, 1, 8, 8), np.uint8), "found 0 images"),
    ],
)
def test_other_images_are_refused(
    extractor: ClassifierExtractor, images: np.ndarray | torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        extractor(images)


def test_tensors_and_arrays_give_the_same_features(extractor: ClassifierExtractor, digits: Digits) -> None:
    images = digits[0][:5]
    np.testing.assert_array_equal(extractor(torch.from_numpy(images)).pool, extractor(images).pool)


@pytest.mark.parametrize("name", NAMES.values())
def test_the_registry_knows_the_extractors_and_suggests_a_name(weights: Path, name: str) -> None:
    file = weights.with_name(f"{name}.safetensors")
    found = load_extractor(name, file)
    assert (found.name, found.digest, found.classes_are_labels) == (name, sha256_file(file), True)
    with pytest.raises(ConfigError, match="did you mean 'digit-classifier'"):
        load_extractor("digit-clasifier", weights)


def test_damaged_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    data = weights.read_bytes()
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_classifier(truncated)
    truncated.unlink()
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="sha256"):
        load_classifier(flipped, sha256=sha256_file(weights))
    flipped.write_bytes(data)
    write_manifest(tmp_path)
    assert load_classifier(flipped).digest == sha256_file(weights)
    flipped.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="manifest.json says"):
        load_classifier(flipped)
    with pytest.raises(CheckpointError, match="no such file"):
        load_classifier(tmp_path / "absent.safetensors")


def test_weights_of_something_else_are_refused(tmp_path: Path, weights: Path) -> None:
    tensors, metadata = load_tensors(weights)
    path = tmp_path / "other.safetensors"
    wider = {"classifier": {**metadata["classifier"], "channels": 48}}
    with_nan = {**tensors, "fc.weight": torch.full_like(tensors["fc.weight"], torch.nan)}
    cases = [
        (tensors, None, "not the weights of a small classifier"),
        (tensors, {"model": {}}, "not the weights of a small classifier"),
        (tensors, wider, "not the weights of a small classifier"),
        ({"x": torch.zeros(1)}, metadata, "not the weights of a small classifier"),
        (with_nan, metadata, "fc.weight: 640 of 640 values are NaN"),
    ]
    for state, header, message in cases:
        save_tensors(path, state, header)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_classifier(path)
        assert "\n" not in str(caught.value)


def test_the_classifier_of_upsampled_digits_is_accurate_on_held_out_ones(larger: ClassifierExtractor) -> None:
    data = data_set("digits-16", "held_out")
    features = larger(to_uint8(data.images))
    found = (features.logits.argmax(axis=1) == data.labels.numpy()).mean()
    assert found >= 0.985
    assert found == pytest.approx(load_tensors(LARGER)[1]["held_out_accuracy"])
    assert LARGER.stat().st_size < 2**20


def test_features_of_upsampled_digits_have_the_same_shapes_and_scale(larger: ClassifierExtractor) -> None:
    features = larger(to_uint8(data_set("digits-16", "train").images))
    assert features.pool.shape == (1437, 64)
    assert features.spatial.shape == (1437, 4 * 4 * 7)
    assert features.logits.shape == (1437, 10)
    assert features.pool.var(axis=0).mean() == pytest.approx(1, abs=0.05)
    assert features.spatial.var(axis=0).mean() == pytest.approx(1, abs=0.05)


def test_each_classifier_refuses_the_images_and_the_weights_of_the_other(
    extractor: ClassifierExtractor, larger: ClassifierExtractor, weights: Path
) -> None:
    with pytest.raises(DataError, match="digit-classifier: .*allowed is \\(N, 1, 8, 8\\)"):
        extractor(np.zeros((2, 1, 16, 16), np.uint8))
    with pytest.raises(DataError, match="digit-classifier-16: .*allowed is \\(N, 1, 16, 16\\)"):
        larger(np.zeros((2, 1, 8, 8), np.uint8))
    with pytest.raises(CheckpointError, match="of the extractor digit-classifier, expected is digit-classifier-16"):
        load_extractor("digit-classifier-16", weights)


def test_other_sizes_are_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ConfigError, match="size 12: allowed are 8, 16, 28"):
        ClassifierConfig(size=12)
    tensors, metadata = load_tensors(weights)
    path = tmp_path / "other.safetensors"
    save_tensors(path, tensors, {"classifier": {**metadata["classifier"], "size": 12}})
    with pytest.raises(CheckpointError, match="size 12: allowed are 8, 16, 28"):
        load_classifier(path)


def test_the_shape_of_the_classifier_of_clothes_makes_four_by_four_pixels_with_or_without_a_stride() -> None:
    x = torch.zeros(2, 1, 28, 28)
    for config in (ClassifierConfig(8, 16, size=28), ClassifierConfig(8, 16, size=28, hidden=24, stride=2)):
        pool, spatial, logits = Classifier(config)(x)
        assert [pool.shape, spatial.shape, logits.shape] == [(2, 16), (2, 4 * 4 * 7), (2, 10)]
        assert ClassifierConfig(**to_metadata(config)["classifier"]) == config
    assert to_metadata(ClassifierConfig())["classifier"] == {"channels": 32, "features": 64, "classes": 10}
    with pytest.raises(ConfigError, match="stride 3: allowed are 1 and 2 at size 28"):
        ClassifierConfig(size=28, stride=3)
