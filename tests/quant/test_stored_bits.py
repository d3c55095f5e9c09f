"""Bits for each weight as a file stores them: exact for every form of a weight, and a damaged file is one line."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qdit.core.errors import CheckpointError
from qdit.methods.method import Quantized
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.quant.activation import DynamicActivation
from qdit.quant.checkpoint import save_checkpoint
from qdit.quant.folder import read_config
from qdit.quant.sites import quantize_site, split_low_rank
from qdit.quant.stored_bits import bits_per_weight, granularity_text, tensor_bytes, weight_bits_stored
from qdit.quant.transforms import Hadamard

CONFIG = DiTConfig(input_size=4, in_channels=1, hidden_size=32, depth=1, num_heads=2, num_classes=3)
SHAPES = {"qkv": (32, 96), "attn_out": (32, 32), "fc1": (32, 128), "fc2": (128, 32)}
"""(inputs, outputs) of the four linears."""
WEIGHTS = sum(inputs * outputs for inputs, outputs in SHAPES.values())


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    model = DiT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def stored(folder: Path, quantized: Quantized) -> tuple[float | None, str]:
    save_checkpoint(folder, quantized, {"method": "rtn"})
    config = read_config(folder)
    return bits_per_weight(folder, config), granularity_text(config["sites"])


def made(model: DiT, method: str, **options: object) -> Quantized:
    return quantize_model(model, method, weight_bits=4, activation_bits=4, options=options)


def test_a_range_for_each_channel_costs_a_scale_and_a_zero_point_of_16_bits(model: DiT, tmp_path: Path) -> None:
    outputs = sum(outputs for _, outputs in SHAPES.values())
    bits, shared = stored(tmp_path, made(model, "rtn", activation="dynamic"))
    assert bits == 4 + 32 * outputs / WEIGHTS
    assert shared == "token × channel"


def test_groups_cost_a_pair_each(model: DiT, tmp_path: Path) -> None:
    bits, shared = stored(tmp_path, made(model, "rtn", activation="dynamic", group_size=16))
    assert bits == 4 + 32 / 16
    assert shared == "groups of 16"


def test_a_branch_costs_its_factors_in_16_bits(model: DiT, tmp_path: Path) -> None:
    rank, quantized = 3, Quantized(deepcopy(model))
    for site in quantized.model.sites():
        if site.role in SHAPES:
            split_low_rank(quantized.model, site, rank)
    rounded = quantize_model(
        quantized.model, "rtn", weight_bits=4, activation_bits=4, options={"activation": "dynamic", "group_size": 16}
    )
    factors = sum(16 * rank * (inputs + outputs) for inputs, outputs in SHAPES.values())
    bits, _ = stored(tmp_path, rounded)
    assert bits == 4 + 32 / 16 + factors / WEIGHTS


def test_a_rotation_costs_its_signs(model: DiT, tmp_path: Path) -> None:
    rotated = quantize_model(model, "rotation", weight_bits=4, activation_bits=4, options={"rounding": "nearest"})
    outputs, inputs = (sum(shape[at] for shape in SHAPES.values()) for at in (1, 0))
    bits, shared = stored(tmp_path / "signs", rotated)
    assert bits == 4 + 32 * outputs / WEIGHTS + 8 * inputs / WEIGHTS  # signs are bytes
    assert shared == "token × channel"
    options = {"rounding": "nearest", "signs": False}
    plain = quantize_model(model, "rotation", weight_bits=4, activation_bits=4, options=options)
    assert stored(tmp_path / "plain", plain)[0] == 4 + 32 * outputs / WEIGHTS
    assert any(isinstance(module, Hadamard) for module in plain.model.modules())


def test_mx_has_a_byte_for_each_block(model: DiT, tmp_path: Path) -> None:
    assert stored(tmp_path, made(model, "mxfp4")) == (4 + 8 / 32, "groups of 32")


def test_nvfp4_has_a_byte_for_each_block_and_a_float_for_each_tensor(model: DiT, tmp_path: Path) -> None:
    bits, shared = stored(tmp_path, made(model, "nvfp4"))
    tensors = tensor_bytes(tmp_path / "model.safetensors")
    scales = [8 * count for name, count in tensors.items() if name.endswith("tensor_scale")]
    assert len(scales) == 4 and set(scales) <= {16, 32}  # in half precision if this changes no value
    assert bits == 4 + 8 / 16 + sum(scales) / WEIGHTS
    assert shared == "groups of 16"


def test_static_ranges_and_floating_point_weights_are_no_weights_in_bits(model: DiT, tmp_path: Path) -> None:
    assert stored(tmp_path / "fp", Quantized(deepcopy(model))) == (None, "")
    quantized = Quantized(deepcopy(model))
    site = next(site for site in quantized.model.sites() if site.role == "fc1")
    quantize_site(quantized.model, site, activation=DynamicActivation(bits=8, group_size=None))
    assert stored(tmp_path / "inputs", quantized) == (None, "")


def test_what_has_no_site_does_not_count() -> None:
    site = {"weight_bits": 4, "shape": [8, 4], "groups": [8, 1], "activation": {"kind": "dynamic"}}
    sites = {"a.b": site, "a.b.c": site | {"weight_bits": 16}}
    stored_bytes = {"a.b.codes": 16, "a.b.bias": 32, "a.b.activation.scale": 4, "a.b.transform.0.factor": 16}
    assert weight_bits_stored(sites, stored_bytes | {"a.weight": 999, "b": 7}) == 8 * 32 / 32
    assert granularity_text({"x": site, "y": site | {"groups": [8, 2]}}) == "token × several"


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b'\x05\0\0\0\0\0\0\0{"a":']
)
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: not a readable safetensors file .*quantize again"
    ) as e:
        tensor_bytes(path)
    assert "\n" not in str(e.value)


def test_sizes_come_from_the_file_and_not_from_the_shapes(model: DiT, tmp_path: Path) -> None:
    """The same sites with one scale in float32: twice the bytes of that tensor."""
    quantized = made(model, "rtn", activation="dynamic")
    before, _ = stored(tmp_path / "half", quantized)
    module = quantized.model.get_submodule("blocks.0.mlp.fc1")
    module.scale = torch.full_like(module.scale, 0.1, dtype=torch.float32)
    after, _ = stored(tmp_path / "single", replace(quantized))
    assert before is not None and after == before + 16 * SHAPES["fc1"][1] / WEIGHTS
