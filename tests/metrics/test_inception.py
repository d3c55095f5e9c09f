"""ADM's Inception features with random weights: layers, layout, determinism, loading without a network."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import save_tensors
from qdit.metrics.extractors import load_extractor

if TYPE_CHECKING:  # torchvision takes seconds; only the process that runs these tests imports it
    from qdit.metrics.inception import AdmInception, InceptionExtractor


@pytest.fixture(scope="module")
def network() -> "AdmInception":
    """Random weights whose activations neither vanish nor explode."""
    from qdit.metrics.inception import AdmInception

    built = AdmInception()
    draw = torch.Generator().manual_seed(0)
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=draw)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02, generator=draw)
            nn.init.normal_(module.bias, generator=draw)
    return built


def extractor(network: "AdmInception", batch: int = 32) -> "InceptionExtractor":
    from qdit.metrics.inception import InceptionExtractor

    return InceptionExtractor(network, "0" * 64, batch=batch)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(3, 3, 40, 32), dtype=np.uint8)


def test_features_are_the_layers_of_adm(network: "AdmInception", images: np.ndarray) -> None:
    blocks: list[torch.Tensor] = []
    hook = network.Mixed_6d.register_forward_hook(lambda module, inputs, output: blocks.append(output.clone()))
    features = extractor(network, batch=2)(images)
    hook.remove()
    block = torch.cat(blocks)[:3]
    assert features.pool.shape == (3, 2048)
    assert features.spatial.shape == (3, 2023)
    assert features.logits.shape == (3, 1008)
    assert block.shape == (3, 768, 17, 17)
    np.testing.assert_array_equal(features.spatial, block[:, :7].permute(0, 2, 3, 1).reshape(3, -1).numpy())
    assert features.spatial.std() > 1e-3
    np.testing.assert_allclose(features.logits, features.pool @ network.fc.weight.numpy().T, rtol=1e-3, atol=1e-3)
    again = extractor(network, batch=2)(images[:1])
    np.testing.assert_array_equal(again.pool, features.pool[:1])
    np.testing.assert_array_equal(again.spatial, features.spatial[:1])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_the_file_and_nothing_is_downloaded(
    suffix: str, network: "AdmInception", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", forbidden)
    path = tmp_path / f"inception{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        save_tensors(path, network.state_dict())
    from qdit.metrics.inception import InceptionExtractor

    loaded = load_extractor("inception-adm", path)
    assert isinstance(loaded, InceptionExtractor)
    assert not loaded.classes_are_labels
    assert not loaded.network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name


def test_missing_and_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no Inception weights there; fetch"):
        load_extractor("inception-adm", tmp_path / "absent.safetensors")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load_extractor("inception-adm", tmp_path / "text.pth")
    path = tmp_path / "other.safetensors"
    for tensors in ({}, {"fc.weight": torch.zeros(3, 3)}):
        save_tensors(path, tensors)
        with pytest.raises(CheckpointError, match="not the weights of this Inception network") as caught:
            load_extractor("inception-adm", path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 1, 8, 8), np.uint8), np.zeros((1, 3, 8, 8), np.float32), np.zeros((0, 3, 8, 8), np.uint8)]
)
def test_other_images_are_refused(network: "AdmInception", wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match="inception-adm"):
        extractor(network)(wrong)
