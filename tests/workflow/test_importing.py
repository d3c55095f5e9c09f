"""Files from elsewhere taken into a run: converted once and checked, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError, DataError, QditError
from qdit.core.files import load_tensors, save_tensors, sha256_file
from qdit.metrics.features import Features
from qdit.metrics.reference import build_reference, load_reference, save_reference
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.loading import load_dit, load_model, to_diffusers
from qdit.workflow import importing
from qdit.workflow.importing import import_reference_file, import_weights_file
from tests.small_latent_video import LATENT_VIDEO
from tests.small_models import inputs, random_dit
from tests.small_video_models import random_stdit3, video_inputs

SMALL = DiTConfig(input_size=8, in_channels=4, hidden_size=48, depth=2, num_heads=2, num_classes=10)
SHAPE = {name: value for name, value in SMALL.to_dict().items() if value != getattr(DiTConfig(), name)}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """An official state dict of a small model."""
    path = tmp_path / "DiT.pt"
    torch.save(random_dit(SMALL).state_dict(), path)
    return path


def test_official_weights_are_converted_once(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    import_weights_file(official, out, shape=SHAPE, sha256=sha256_file(official)[:8])
    x, t, y = inputs(SMALL)
    with torch.no_grad():
        assert torch.equal(load_dit(out)(x, t, y), random_dit(SMALL)(x, t, y))
    _, metadata = load_tensors(out)
    assert metadata["source"] == {"name": "DiT.pt", "sha256": sha256_file(official)}
    before = sha256_file(out)
    import_weights_file(official, out, shape=SHAPE, sha256=None)
    assert sha256_file(out) == before


def test_a_diffusers_folder_is_converted_too(tmp_path: Path) -> None:
    to_diffusers(random_dit(SMALL), tmp_path / "folder")
    import_weights_file(tmp_path / "folder", tmp_path / "ours.safetensors", shape=SHAPE, sha256=None)
    x, t, y = inputs(SMALL)
    with torch.no_grad():
        assert torch.equal(load_dit(tmp_path / "ours.safetensors")(x, t, y), random_dit(SMALL)(x, t, y))


def test_a_video_model_is_converted_and_checked_like_an_image_model(tmp_path: Path) -> None:
    source, out = tmp_path / "model.safetensors", tmp_path / "ours.safetensors"
    save_tensors(source, random_stdit3(LATENT_VIDEO).state_dict())
    shape = {name: value for name, value in LATENT_VIDEO.to_dict().items() if value != getattr(STDiT3Config(), name)}
    assumed = import_weights_file(source, out, shape=shape, sha256=sha256_file(source), family="stdit3")
    assert assumed == {"pixels_per_cell": 8, "fps": 24, "frame_positions": False}  # what no tensor shows, nor the shape
    assert load_tensors(out)[1]["assumed"] == assumed
    x, t, text, mask = video_inputs(LATENT_VIDEO, size=(2, 4, 6))
    with torch.no_grad():
        assert torch.equal(load_model(out)(x, t, text, mask), random_stdit3(LATENT_VIDEO)(x, t, text, mask))
    assert load_tensors(out)[1]["source"] == {"name": "model.safetensors", "sha256": sha256_file(source)}
    for family, shape, error, words in [
        ("stdit3", {}, CheckpointError, "weights of another model, with hidden_size 24 instead of 1152"),
        ("stdit3", {"input_size": 8}, ConfigError, "allowed are the fields of STDiT3Config"),
        ("dit", {}, ConfigError, "holds a video model"),
        ("unet", {}, ConfigError, "allowed are dit, stdit3"),
    ]:
        with pytest.raises(error, match=words) as raised:
            import_weights_file(source, tmp_path / "no.safetensors", shape=shape, sha256=None, family=family)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize("problem", ["missing", "empty", "truncated", "wrong hash", "another model", "unknown key"])
def test_wrong_files_are_one_line(problem: str, official: Path, tmp_path: Path) -> None:
    shape, digest, message = dict(SHAPE), None, "cannot be read"
    if problem == "missing":
        official.unlink()
        message = "qdit fetch"
    elif problem == "empty":
        official.write_bytes(b"")
        message = "qdit fetch"
    elif problem == "truncated":
        official.write_bytes(official.read_bytes()[:-2000])
    elif problem == "wrong hash":
        digest, message = "0" * 64, "sha256"
    elif problem == "another model":
        shape |= {"depth": 12, "hidden_size": 96}
        message = "hidden_size 48 instead of 96, depth 2 instead of 12"
    else:
        shape |= {"deep": 3}
        message = "allowed are the fields of DiTConfig"
    with pytest.raises(QditError, match=message) as raised:
        import_weights_file(official, tmp_path / "ours.safetensors", shape=shape, sha256=digest)
    assert isinstance(raised.value, ConfigError if problem == "unknown key" else CheckpointError)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ours.safetensors").exists()


class Four:
    """An extractor of four pool features: mean of each channel, and of all."""

    name, digest, classes_are_labels = "four", "d" * 64, False

    def __call__(self, images: np.ndarray) -> Features:
        means = images.reshape(len(images), 3, -1).mean(axis=2)
        pool = np.concatenate([means, means.mean(axis=1, keepdims=True)], axis=1).astype(np.float32)
        return Features(pool, pool, pool)


def test_an_adm_batch_keeps_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "load_extractor", lambda name, weights, **_: Four())
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, size=(150, 8, 8, 3), dtype=np.uint8)  # N, H, W, C; more than one stream block
    statistics = {"mu": draw.normal(size=4), "sigma": np.eye(4), "mu_s": draw.normal(size=4), "sigma_s": 2 * np.eye(4)}
    np.savez(tmp_path / "batch.npz", arr_0=images, **statistics)
    digest = sha256_file(tmp_path / "batch.npz")
    out = tmp_path / "reference.npz"
    import_reference_file(tmp_path / "batch.npz", out, extractor="four", weights=tmp_path, sha256=digest)
    reference = load_reference(out)
    np.testing.assert_array_equal(reference.pool.mean, statistics["mu"])
    np.testing.assert_array_equal(reference.spatial.covariance, statistics["sigma_s"])
    np.testing.assert_allclose(reference.pool_features[:, :3], images.mean(axis=(1, 2)), rtol=1e-6)
    assert reference.extractor_digest == "d" * 64
    import_reference_file(tmp_path / "batch.npz", out, extractor="four", weights=tmp_path, sha256=None, resolution=8)
    monkeypatch.setattr(importing, "load_extractor", lambda *_, **__: pytest.fail("looked at the images first"))
    with pytest.raises(DataError, match=r"holds images of 8×8 pixels, the models .* make 256×256; give the batch"):
        import_reference_file(tmp_path / "batch.npz", out, extractor="four", weights=out, sha256=None, resolution=256)
    with pytest.raises(CheckpointError, match="sha256"):
        import_reference_file(tmp_path / "batch.npz", out, extractor="four", weights=tmp_path, sha256="0" * 8)
    with pytest.raises(CheckpointError, match="qdit fetch"):
        import_reference_file(tmp_path / "no.npz", out, extractor="four", weights=tmp_path, sha256=None)


def test_a_reference_of_ours_is_copied_if_the_extractor_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "load_extractor", lambda name, weights, **_: Four())
    images = np.random.default_rng(0).integers(0, 256, size=(20, 3, 8, 8), dtype=np.uint8)
    batch, out = tmp_path / "shipped.npz", tmp_path / "reference.npz"
    save_reference(batch, build_reference(images, Four()))
    import_reference_file(batch, out, extractor="four", weights=tmp_path, sha256=sha256_file(batch), resolution=8)
    assert out.read_bytes() == batch.read_bytes()
    out.unlink()
    with pytest.raises(DataError, match="of another extractor: found four dddddddddddd…, the profile says five"):
        import_reference_file(batch, out, extractor="five", weights=tmp_path, sha256=None)
    monkeypatch.setattr(Four, "digest", "e" * 64)
    with pytest.raises(DataError, match="the profile says four eeeeeeeeeeee…; make the file again with qdit reference"):
        import_reference_file(batch, out, extractor="four", weights=tmp_path, sha256=None)
    assert not out.exists()
