"""Loading and saving of weights: every kind of file that is accepted (bad ones: test_loading_refusals.py)."""

import argparse

import pytest
import torch
from torch import nn

from qdit.core.files import load_tensors, save_tensors, sha256_file
from qdit.models.config import DiTConfig
from qdit.models.dit import DIT_XL_2_256, DIT_XL_2_512, DiT
from qdit.models.loading import import_official, load_model, save_model, write_manifest
from qdit.models.state import FAMILY_HEADS, infer_config

HEADS = 2
"""Of the fixture `mini`."""


def same_weights(found: DiT, expected: DiT) -> bool:
    states = found.state_dict(), expected.state_dict()
    return list(states[0]) == list(states[1]) and all(torch.equal(states[0][n], t) for n, t in states[1].items())


def test_our_format_round_trip(tmp_path, mini, batch) -> None:
    path = tmp_path / "dit.safetensors"
    save_model(path, mini, metadata={"form": "natural"})
    model = load_model(path)
    assert model.config == mini.config and not model.training
    assert same_weights(model, mini)
    inputs = batch(mini.config)
    assert torch.equal(model(*inputs), mini(*inputs))
    assert load_tensors(path)[1] == {"model": mini.config.to_dict(), "form": "natural"}


def test_saving_twice_gives_equal_bytes_also_after_loading(tmp_path, mini) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_model(first, mini)
    save_model(second, load_model(first))
    assert first.read_bytes() == second.read_bytes()


def test_loaded_weights_do_not_share_memory_with_the_file(tmp_path, mini) -> None:
    save_model(tmp_path / "dit.safetensors", mini)
    torch.save(mini.state_dict(), tmp_path / "dit.pt")
    for name in ("dit.safetensors", "dit.pt"):
        before = sha256_file(tmp_path / name)
        model = load_model(tmp_path / name, num_heads=HEADS)
        pointers = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        assert len(pointers) == len(model.state_dict())
        for parameter in model.parameters():
            parameter.data.zero_()
        assert sha256_file(tmp_path / name) == before


def test_loading_leaves_the_global_generator_alone(tmp_path, mini) -> None:
    save_model(tmp_path / "dit.safetensors", mini)
    before = torch.random.get_rng_state()
    load_model(tmp_path / "dit.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(tmp_path, mini, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in mini.state_dict().items()}
    save_tensors(tmp_path / "dit.safetensors", state, {"model": mini.config.to_dict()})
    model = load_model(tmp_path / "dit.safetensors")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.blocks[0].mlp.fc1.bias, state["blocks.0.mlp.fc1.bias"].float())


@pytest.mark.parametrize("legacy", [False, True])
def test_official_state_dict(tmp_path, mini, batch, legacy: bool) -> None:
    torch.save(mini.state_dict(), tmp_path / "DiT.pt", _use_new_zipfile_serialization=not legacy)
    model = load_model(tmp_path / "DiT.pt", num_heads=HEADS)
    assert model.config == mini.config and not model.training
    assert same_weights(model, mini)
    assert torch.equal(model(*batch(mini.config)), mini(*batch(mini.config)))


def test_training_checkpoint_gives_its_moving_average(tmp_path, mini, random_dit) -> None:
    other = random_dit(mini.config, seed=4)
    checkpoint = {
        "model": other.state_dict(),
        "ema": {name: nn.Parameter(tensor) for name, tensor in mini.state_dict().items()},
        "opt": torch.optim.AdamW(other.parameters()).state_dict(),
        "args": argparse.Namespace(model="DiT-XL/2", image_size=256, ckpt=None),
    }
    torch.save(checkpoint, tmp_path / "0400000.pt")
    assert same_weights(load_model(tmp_path / "0400000.pt", num_heads=HEADS), mini)


def test_import_converts_once_and_notes_the_source(tmp_path, mini) -> None:
    source, path = tmp_path / "DiT.pt", tmp_path / "dit.safetensors"
    torch.save(mini.state_dict(), source)
    import_official(source, path, num_heads=HEADS)
    assert same_weights(load_model(path), mini)
    assert load_tensors(path)[1]["source"] == {"name": "DiT.pt", "sha256": sha256_file(source)}


def test_safetensors_without_our_metadata_are_read_like_official_ones(tmp_path, mini) -> None:
    save_tensors(tmp_path / "dit.safetensors", mini.state_dict())
    assert same_weights(load_model(tmp_path / "dit.safetensors", num_heads=HEADS), mini)


def meta_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in DiT(config).state_dict().items()}


@pytest.mark.parametrize("config", [DIT_XL_2_256, DIT_XL_2_512])
def test_configuration_of_the_official_weights_is_inferred(config: DiTConfig) -> None:
    assert infer_config(meta_shapes(config), where="x")[0] == config


def test_heads_of_the_official_family_and_other_shapes() -> None:
    for (hidden, depth), heads in FAMILY_HEADS.items():
        assert hidden // heads == (72 if hidden == 1152 else 64)
        config = DiTConfig(hidden_size=hidden, depth=depth, num_heads=heads, patch_size=4)
        assert infer_config(meta_shapes(config), where="x")[0] == config
    odd = DiTConfig(12, 3, 2, 40, 3, 5, 3, 7, 32)
    assert infer_config(meta_shapes(odd), where="x", num_heads=5) == (odd, {})


def test_digest_and_manifest_accept_the_right_file(tmp_path, mini) -> None:
    path = tmp_path / "dit.safetensors"
    save_model(path, mini)
    write_manifest(tmp_path)
    load_model(path)
    load_model(path, sha256=sha256_file(path))
    save_model(tmp_path / "unlisted.safetensors", mini)
    load_model(tmp_path / "unlisted.safetensors")
