"""The VAE from local files: diffusers' own numbers, names of published files, and one line for every wrong file."""

import json
from pathlib import Path

import pytest
import torch

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, save_tensors
from qdit.models.image_vae import LATENT_FACTOR, OLD_NAMES, load_image_vae, renamed
from qdit.models.vae_files import vae_sha256
from tests.small_latent_models import autoencoder, write_vae


def test_latents_are_divided_and_decoded_as_diffusers_does(tmp_path: Path) -> None:
    original = autoencoder(widths=(4, 4, 8))
    vae = load_image_vae(write_vae(tmp_path, original))
    latents = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(vae(latents), original.decode(latents / 0.18215).sample, rtol=1e-5, atol=1e-5)
        assert vae(latents).shape == (3, 3, 20, 20)
    assert (vae.factor, vae.channels) == (4, 4)
    assert not any("encoder" in name.split(".")[1] for name, _ in vae.named_parameters())


@pytest.mark.parametrize(("side", "image"), [(32, 256), (64, 512)])
def test_the_papers_shapes(side: int, image: int, tmp_path: Path) -> None:
    """Four levels, as sd-vae-ft-mse has, on the meta device: nothing is computed."""
    vae = load_image_vae(write_vae(tmp_path, autoencoder(widths=(4, 4, 4, 4)))).to("meta")
    assert vae.factor == 8
    assert vae(torch.empty(2, 4, side, side, device="meta")).shape == (2, 3, image, image)


def test_names_of_published_files_are_understood(tmp_path: Path) -> None:
    weights = write_vae(tmp_path)
    expected, (tensors, _) = load_image_vae(weights).state_dict(), load_tensors(weights)
    back = {new: old for old, new in OLD_NAMES.items()}
    old = {}
    for name, tensor in tensors.items():
        for new, published in back.items():
            if f"attentions.0.{new}." in name:
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{published}.")
        old[name] = tensor
    assert old.keys() != tensors.keys() and sum("proj_attn" in name for name in old) == 4
    save_tensors(weights, old)
    result = load_image_vae(weights).state_dict()
    assert result.keys() == expected.keys() and all(torch.equal(result[name], expected[name]) for name in result)
    assert renamed("decoder.conv_in.weight") == "decoder.conv_in.weight" and renamed("query") == "query"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scaling_factor": 0.13025}, f"scaling_factor is 0.13025, DiT's latents take {LATENT_FACTOR}"),
        ({"_class_name": "AutoencoderTiny"}, "found 'AutoencoderTiny', expected the configuration of an AutoencoderKL"),
        ({"norm_num_groups": 3}, "no configuration of an AutoencoderKL"),
        ({"block_out_channels": [4, 16]}, "expected"),
        ({"layers_per_block": 2}, "tensors are missing"),
    ],
)
def test_another_configuration_is_one_line(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words) as raised:
        load_image_vae(write_vae(tmp_path, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "problem", ["missing", "no configuration", "truncated", "not finite", "a list", "other weights"]
)
def test_wrong_files_are_one_line(problem: str, tmp_path: Path) -> None:
    weights = write_vae(tmp_path)
    config, (tensors, _) = weights.with_name("config.json"), load_tensors(weights)
    if problem == "missing":
        weights.unlink()
    elif problem == "no configuration":
        config.unlink()
    elif problem == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif problem == "not finite":
        save_tensors(weights, tensors | {"decoder.conv_in.bias": torch.full((8,), torch.nan)})
    elif problem == "a list":
        config.write_text(json.dumps([1]))
    else:
        save_tensors(weights, {"pos_embed": torch.zeros(1)})
    with pytest.raises(CheckpointError) as raised:
        load_image_vae(weights)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_the_digest_is_of_weights_and_configuration(tmp_path: Path) -> None:
    one, same = write_vae(tmp_path / "one"), write_vae(tmp_path / "same")
    other = write_vae(tmp_path / "other", sample_size=64)
    assert vae_sha256(one) == vae_sha256(same) != vae_sha256(other)
    save_tensors(same, load_tensors(same)[0] | {"decoder.conv_in.bias": torch.zeros(8)})
    assert vae_sha256(one) != vae_sha256(same)
    one.with_name("config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        vae_sha256(one)
