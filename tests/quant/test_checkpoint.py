"""Quantized checkpoints: really small, loaded to the same bits, refused when anything is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from qdit.core.errors import CheckpointError
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.folder import with_digest
from tests.small_models import calibration_set, inputs, random_dit


def dynamic(model, **options):
    """Weights and activations of the four linears, without calibration data."""
    empty = {"trajectory": calibration_set("trajectory", samples=2)}
    given = {"group_size": 16, "activation": "dynamic", **options}
    return quantize_model(model, "rtn", weight_bits=4, activation_bits=8, calibration=empty, options=given)


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", dynamic(random_dit()), {"method": "rtn"})
    return tmp_path / "checkpoint"


def test_loaded_checkpoint_gives_the_same_bits(folder):
    model = dynamic(random_dit()).model
    loaded = load_checkpoint(folder)
    with torch.inference_mode():
        assert torch.equal(loaded.model(*inputs()), model(*inputs()))
    assert loaded.config["record"] == {"method": "rtn"}
    assert not loaded.model.training


def test_quantized_layers_take_4_bits_per_weight_and_4_bytes_per_group(tmp_path):
    config = DiTConfig(input_size=8, in_channels=1, hidden_size=144, depth=2, num_heads=6, num_classes=10)
    model = random_dit(config)
    save_checkpoint(tmp_path, dynamic(model), {})
    stored = load_file(tmp_path / "model.safetensors")
    layers = [site.name for site in select(model.sites(), roles=CORE_ROLES)]
    result = sum(
        t.nbytes for name, t in stored.items() if name.rpartition(".")[0] in layers and not name.endswith(".bias")
    )
    weights = sum(model.get_submodule(name).weight.numel() for name in layers)
    assert abs(result / (weights / 2 + 4 * weights / 16) - 1) < 0.02


def test_values_that_half_precision_holds_are_stored_in_half_precision(tmp_path):
    model = random_dit()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    save_checkpoint(tmp_path, Quantized(model), {})
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(tmp_path).model(*inputs()), model(*inputs()))


def rewrite(folder, change):
    """Change the tensors of a checkpoint and make the hash fit, so that only the change is wrong."""
    from qdit.core.files import sha256_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["files"]["model.safetensors"] = sha256_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(with_digest(config)))


def drop(tensors):
    del tensors["blocks.0.attn.qkv.scale"]


def add(tensors):
    tensors["surprise"] = torch.zeros(1)


def narrow(tensors):
    tensors["blocks.0.attn.qkv.scale"] = tensors["blocks.0.attn.qkv.scale"][:-1].clone()


def poison(tensors):
    tensors["blocks.0.attn.qkv.scale"][0] = torch.nan


def other_width(tensors):
    tensors["final_layer.linear.weight"] = torch.zeros(8, 7)


@pytest.mark.parametrize("change", [drop, add, narrow, poison, other_width])
def test_wrong_tensors_are_refused_in_one_line(folder, change):
    rewrite(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value).strip()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_damaged_files_are_refused(folder, damage):
    damage(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_damaged_configurations_are_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    save_checkpoint(tmp_path / "again", dynamic(random_dit()), {"method": "rtn"})
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_configuration_that_was_edited_is_refused(folder):
    """Activation bits by hand: the model would compute in others than the record says."""
    load_checkpoint(folder)
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    site = next(iter(config["sites"].values()))
    site["activation"]["bits"] = 4
    without = {key: value for key, value in json.loads(text).items() if key != "sha256"}
    for changed, words in (
        (config, r"config\.json: its content has sha256 .*it was edited"),
        (without, r"config\.json: gives no sha256 of its content, .*quantize again"),
    ):
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(json.loads(text), indent=7))
    load_checkpoint(folder)
