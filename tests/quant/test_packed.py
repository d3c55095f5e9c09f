"""Packed models: the same bits as the simulated mode, in a fraction of its memory."""

import pytest
import torch

from qdit.core.affine import pack_codes
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.packed import HalfLinear, PackedLinear, keep_packed, resident_bytes, unpacked
from tests.small_models import calibration_set, inputs, random_dit
from tests.small_video_models import random_stdit3, video_inputs


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("width", [1, 7, 8, 48])
def test_codes_are_unpacked_where_they_are(bits: int, width: int) -> None:
    codes = torch.randint(2**bits, (5, width), generator=torch.Generator().manual_seed(bits), dtype=torch.int16)
    assert torch.equal(unpacked(pack_codes(codes, bits), bits, width), codes)


def quantized(bits: int, scope: str, *, model=None, data=None) -> Quantized:
    options = {"group_size": 12, "activation": "dynamic"}
    empty = {"trajectory": data or calibration_set("trajectory", samples=2)}
    return quantize_model(
        model or random_dit(),
        "rtn",
        weight_bits=bits,
        activation_bits=8,
        scope=scope,
        calibration=empty,
        options=options,
    )


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_packed_dit_has_the_same_bits_and_saves_to_the_same_file(bits: int, tmp_path) -> None:
    made = quantized(bits, "common")
    with torch.inference_mode():
        expected = made.model(*inputs())
    save_checkpoint(tmp_path / "before", made, {})
    before = resident_bytes(made.model)
    keep_packed(made.model)
    with torch.inference_mode():
        assert torch.equal(made.model(*inputs()), expected)
    assert any(isinstance(module, PackedLinear) for module in made.model.modules())
    assert resident_bytes(made.model) < before
    save_checkpoint(tmp_path / "after", made, {})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


def test_a_packed_video_model_has_the_same_bits() -> None:
    model = random_stdit3()
    made = quantized(4, "common", model=model)
    with torch.inference_mode():
        expected = made.model(*video_inputs())
        assert torch.equal(keep_packed(made.model)(*video_inputs()), expected)


def test_a_model_whose_floats_are_half_precision_is_as_small_as_its_file(tmp_path) -> None:
    model = random_dit(DiTConfig(input_size=8, in_channels=1, hidden_size=144, depth=2, num_heads=6, num_classes=10))
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    save_checkpoint(tmp_path, quantized(4, "common", model=model), {})
    loaded = load_checkpoint(tmp_path).model
    simulated = resident_bytes(loaded)
    keep_packed(loaded)
    assert any(type(module) is HalfLinear for module in loaded.modules())
    size = (tmp_path / "model.safetensors").stat().st_size
    assert resident_bytes(loaded) < 1.1 * size < 0.5 * simulated
