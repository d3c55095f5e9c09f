"""The memory that docs/diffusers.md states, computed again: the mini DiT with its weights, DiT-XL/2 by its shapes."""

import re
from pathlib import Path

import pytest
import torch

from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.loading import load_dit
from qdit.quant.checkpoint import load_checkpoint, save_checkpoint
from qdit.quant.packed import keep_packed, resident_bytes

PAGE = Path(__file__).parents[2] / "docs" / "diffusers.md"
WEIGHTS = Path(__file__).parents[2] / "weights" / "dit-digits-natural.safetensors"
MEGABYTE = 1e6
GROUP_SIZE = 128
SCALE_AND_ZERO_POINT = 4
"""Bytes of a group: a float16 scale and an int16 zero point."""


def stated(row: str) -> float:
    """Megabytes in a row of the page's table."""
    found = re.search(rf"^\| {re.escape(row)} \| ([\d.]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found, row
    return float(found[1])


def test_the_mini_dit(tmp_path: Path) -> None:
    model = load_dit(WEIGHTS)
    assert resident_bytes(model) / MEGABYTE == pytest.approx(stated("float32 model"), abs=0.006)
    options = {"group_size": 16, "activation": "dynamic"}
    quantized = quantize_model(
        model, "rtn", weight_bits=4, activation_bits=8, scope="common", calibration={}, options=options
    )
    save_checkpoint(tmp_path / "checkpoint", quantized, {})
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").glob("*.safetensors"))
    assert size / MEGABYTE == pytest.approx(stated("file of the checkpoint"), abs=0.03)
    loaded = load_checkpoint(tmp_path / "checkpoint").model
    assert resident_bytes(loaded) / MEGABYTE == pytest.approx(stated("quantized, loaded"), abs=0.03)
    assert resident_bytes(keep_packed(loaded)) / MEGABYTE == pytest.approx(stated("quantized, packed"), abs=0.03)


def test_dit_xl_by_its_shapes() -> None:
    with torch.device("meta"):
        model = DiT(DiTConfig())
    full = sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()]) * 4
    linears = [
        linear.weight.numel()
        for block in model.blocks
        for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
    ]
    codes = sum(count // 2 + count // GROUP_SIZE * SCALE_AND_ZERO_POINT for count in linears)
    sizes = (full, full + codes, full - 4 * sum(linears) + codes)
    line = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if "follows from its shapes" in line)
    numbers = [float(word.replace(",", "")) for word in re.findall(r"([\d,]+) MB", line)]
    assert numbers == pytest.approx([size / MEGABYTE for size in sizes], abs=1.5)
