"""Loaded → saved → loaded computes the same function to the bit, in every format, or is refused with the reason.

Random small configurations of both families, and the shapes of every official variant at the width of one head.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.files import save_tensors
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.loading import from_diffusers, load_model, read_model, save_model, to_diffusers
from qdit.models.network import Network
from qdit.models.state import FAMILY_HEADS, infer_config
from qdit.models.stdit3_state import HIDDEN
from qdit.quant.checkpoint import Quantized, read_checkpoint, save_checkpoint
from tests.small_models import inputs, random_dit
from tests.small_video_models import random_stdit3, video_inputs

EXAMPLES = settings(max_examples=12, deadline=None, derandomize=True)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

OFFICIAL = [
    DiTConfig(input_size=size // 8, patch_size=patch, hidden_size=width, depth=depth, num_heads=heads)
    for size in (256, 512)
    for patch in (2, 4, 8)
    for (width, depth), heads in FAMILY_HEADS.items()
]


@st.composite
def dit_configs(draw: st.DrawFn) -> DiTConfig:
    heads, patch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return DiTConfig(
        input_size=patch * draw(st.integers(1, 3)),
        patch_size=patch,
        in_channels=draw(st.integers(1, 4)),
        hidden_size=4 * heads * draw(st.integers(1, 3)),
        depth=draw(st.integers(1, 3)),
        num_heads=heads,
        mlp_ratio=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 12)),
        frequency_size=draw(st.sampled_from([16, 256])),
    )


@st.composite
def stdit3_configs(draw: st.DrawFn) -> STDiT3Config:
    heads, patch = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return STDiT3Config(
        in_channels=draw(st.integers(1, 4)),
        patch_size=patch,
        frame_patch=1,
        hidden_size=12 * heads,
        depth=draw(st.integers(1, 2)),
        num_heads=heads,
        mlp_ratio=draw(st.integers(1, 4)),
        text_width=draw(st.sampled_from([8, 12])),
        text_tokens=draw(st.integers(1, 7)),
        frequency_size=16,
        base_size=draw(st.integers(1, 64)),
        pixels_per_cell=draw(st.integers(1, 8)),
        fps=draw(st.integers(1, 30)),
        frame_positions=draw(st.booleans()),
    )


def output(model: Network) -> torch.Tensor:
    """What a model computes of fixed inputs."""
    with torch.inference_mode():
        if isinstance(model.config, DiTConfig):
            return model(*inputs(model.config, count=2))  # type: ignore[return-value]
        size = (2, 2 * model.config.patch_size, 3 * model.config.patch_size)
        return model(*video_inputs(model.config, size=size))  # type: ignore[return-value]


def require_same(model: Network, other: Network) -> None:
    assert other.config == model.config
    assert torch.equal(output(other), output(model))


def check_our_formats(model: Network, folder: Path) -> None:
    """Our file, and a checkpoint at 16/16 bits."""
    save_model(folder / "ours.safetensors", model)
    require_same(model, load_model(folder / "ours.safetensors"))
    save_checkpoint(folder / "checkpoint", Quantized(model), {})
    require_same(model, read_checkpoint(folder / "checkpoint")[0])


@EXAMPLES
@given(dit_configs(), st.sampled_from(DTYPES), st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod."]))
def test_a_dit_of_any_shape_and_dtype(config: DiTConfig, dtype: torch.dtype, prefix: str) -> None:
    state = {prefix + name: tensor.to(dtype) for name, tensor in random_dit(config).state_dict().items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tensors(folder / "official.safetensors", state)
        torch.save({"model": state}, folder / "official.pt")
        model = load_model(folder / "official.safetensors", num_heads=config.num_heads)
        assert model.config == config
        require_same(model, load_model(folder / "official.pt", num_heads=config.num_heads))
        check_our_formats(model, folder)


@EXAMPLES
@given(dit_configs(), st.booleans())
def test_a_dit_through_diffusers_and_back(config: DiTConfig, table: bool) -> None:
    config = dataclasses.replace(config, frequency_size=256, mlp_ratio=4)
    model = random_dit(config)
    if not table:  # positions in another bit than the table that diffusers computes
        model.pos_embed[0, 0, 0] += 2**-20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not table:
            with pytest.raises(Unsupported, match="pos_embed differs by up to"):
                to_diffusers(model, folder / "diffusers")
            check_our_formats(model, folder)
            return
        module = to_diffusers(model, folder / "diffusers")
        require_same(model, load_model(folder / "diffusers"))
        require_same(model, from_diffusers(module))
        require_same(model, from_diffusers(to_diffusers(load_model(folder / "diffusers"))))


@EXAMPLES
@given(stdit3_configs(), st.sampled_from(DTYPES))
def test_an_stdit3_of_any_shape_and_dtype(config: STDiT3Config, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random_stdit3(config).state_dict().items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tensors(folder / "bare.safetensors", state)
        with pytest.raises(CheckpointError, match="base_size, pixels_per_cell, fps, frame_positions of this model"):
            load_model(folder / "bare.safetensors")
        unseen = {field: getattr(config, field) for field in HIDDEN}
        model = read_model(folder / "bare.safetensors", settings=unseen).model
        assert model.config == config
        check_our_formats(model, folder)
        save_tensors(folder / "hub" / "model.safetensors", state)
        (folder / "hub" / "config.json").write_text(json.dumps({"model_type": "STDiT3", **unseen}))
        require_same(model, load_model(folder / "hub"))
        require_same(model, load_model(folder / "hub" / "model.safetensors"))


@pytest.mark.parametrize("config", OFFICIAL, ids=lambda c: f"{c.hidden_size}-{c.input_size}-{c.patch_size}")
def test_the_shapes_of_every_official_dit_name_it(config: DiTConfig) -> None:
    from qdit.models.dit import DiT

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in DiT(config).state_dict().items()}
    assert infer_config(shapes, where="x") == (config, {"num_heads": config.num_heads})


@pytest.mark.parametrize("config", OFFICIAL[:3], ids=lambda c: f"{c.hidden_size}-{c.patch_size}")
def test_official_variants_at_the_width_of_a_head(config: DiTConfig, tmp_path: Path) -> None:
    narrow = dataclasses.replace(config, hidden_size=4 * config.num_heads, depth=2)
    check_our_formats(random_dit(narrow), tmp_path)
    require_same(random_dit(narrow), from_diffusers(to_diffusers(random_dit(narrow))))
