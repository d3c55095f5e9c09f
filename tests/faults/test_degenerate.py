"""Silent and nearly silent layers, by every method on images and clips: finite models, and errors name the layer."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from baselines import ditas
from qdit.core.errors import CheckpointError, Unsupported
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import registry
from qdit.models.dit import DiT
from qdit.models.network import Network
from qdit.quant.apply import SILENT
from qdit.sampling.calibration import KINDS
from tests.small_models import TINY, calibration_set, inputs, random_dit
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_calibration_set, video_inputs

METHODS = [name for name in sorted(registry()) if name != "fp"]
HOLD_ANY_WEIGHT = ("ditas", "mxfp4", "nvfp4", "smoothquant", "svdquant", "vidit-q")
"""Methods whose block scales, branch or channel factors hold a weight that no float16 scale of a group holds."""
SMALL = {
    "group_size": 8,
    "block_size": 8,
    "rank": 2,
    "turns": 3,
    "grid": 4,
    "iterations": 3,
    "batch": 8,
    "per_group": 4,
    "rounds": 1,
}
ONE_BLOCK, SHORT = (dataclasses.replace(config, depth=1) for config in (TINY, TINY_VIDEO))
DATA = {
    "image": {kind: calibration_set(kind, samples=8) for kind in KINDS},
    "video": {kind: video_calibration_set(kind, samples=8, config=SHORT) for kind in KINDS},
}
PRUNED = {"image": "blocks.0.mlp.fc2", "video": "spatial_blocks.0.mlp.fc2"}
INPUTS: dict[str, Callable[[], tuple[torch.Tensor, ...]]] = {"image": inputs, "video": lambda: video_inputs(SHORT)}


@pytest.fixture(autouse=True, scope="module")
def few_exponents() -> Iterator[None]:
    """DiTAS tries three exponents in the place of 21."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ditas, "STEPS", 2)
        yield


def first_block(model: Any) -> Any:
    return model.blocks[0] if isinstance(model, DiT) else model.spatial_blocks[0]


def tiny_row(block: Any) -> None:
    block.attn.proj.weight[5] *= 1e-8


def tiny_layer(block: Any) -> None:
    block.attn.proj.weight.mul_(1e-7)


def pruned(block: Any) -> None:
    block.mlp.fc1.weight.zero_()
    block.mlp.fc1.bias.zero_()


def dead_columns(block: Any) -> None:
    block.mlp.fc1.weight[:24].zero_()
    block.mlp.fc1.bias[:24].zero_()


def broken(family: str, edit: Callable[[Any], None]) -> Network:
    model: Network = random_dit(ONE_BLOCK) if family == "image" else random_stdit3(SHORT)
    with torch.no_grad():
        edit(first_block(model))
    return model


def quantized(family: str, method: str, model: Any, scope: str) -> Any:
    """The quantized model; skips what the method refuses for the intact model too, and nothing else."""
    try:
        return outcome_of(family, method, model, scope)
    except Unsupported as reason:
        intact: Any = random_dit(model.config) if family == "image" else random_stdit3(model.config)
        try:
            outcome_of(family, method, intact, scope)
        except Unsupported:
            pytest.skip(str(reason))
        raise


def outcome_of(family: str, method: str, model: Any, scope: str) -> Any:
    """What `quantize_model` makes with small options."""
    fields = {field.name for field in dataclasses.fields(registry()[method].Options)}
    options = {key: value for key, value in SMALL.items() if key in fields}
    return quantize_model(
        model,
        method,
        weight_bits=4,
        activation_bits=8,
        scope=scope,  # type: ignore[arg-type]
        calibration=DATA[family],
        options=options,
    )


def degenerate(family: str) -> Network:
    """A model whose first block has a tiny row and a pruned layer; another block has a tiny layer and dead columns."""
    model: Any = random_dit() if family == "image" else random_stdit3(SHORT)
    first, second = model.blocks if family == "image" else (model.spatial_blocks[0], model.temporal_blocks[0])
    with torch.no_grad():
        for block, edits in ((first, (tiny_row, pruned)), (second, (tiny_layer, dead_columns))):
            for edit in edits:
                edit(block)
    return model


@pytest.mark.parametrize("family", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_degenerate_layers_stop_no_method(family: str, method: str) -> None:
    attempt = quantized(family, method, degenerate(family), "common")
    with torch.inference_mode():
        assert attempt.model(*INPUTS[family]()).isfinite().all()


def zero_channel(block: Any) -> None:
    block.attn.qkv.weight[:, 3] = 0


def zero_value_row(block: Any) -> None:
    row = 2 * block.attn.qkv.weight.shape[0] // 3 + 2
    block.attn.qkv.weight[row] = 0
    block.attn.qkv.bias[row] = 0


def zero_layers(block: Any) -> None:
    block.mlp.fc2.weight.zero_()
    block.attn.qkv.weight.zero_()


def zero_group(block: Any) -> None:
    block.mlp.fc2.weight[:, :16] = 0


def constant_inputs(block: Any) -> None:
    block.mlp.fc1.weight.zero_()
    block.mlp.fc1.bias.fill_(1.0)


def silent_text(block: Any) -> None:
    block.cross_attn.kv_linear.weight.zero_()
    block.cross_attn.kv_linear.bias.zero_()


@pytest.mark.parametrize(
    "edit",
    [zero_channel, zero_value_row, zero_layers, zero_group, constant_inputs, silent_text],
    ids=lambda edit: edit.__name__,
)
@pytest.mark.parametrize("method", ["repq-vit", "ptq4dit", "q-dit"])  # folding, salience, groups with GPTQ
def test_clips_of_a_degenerate_layer_stay_near_full_precision(method: str, edit: Callable[[Any], None]) -> None:
    model = broken("video", edit)
    attempt = quantized("video", method, model, "common")
    with torch.inference_mode():
        expected, outcome = model(*INPUTS["video"]()), attempt.model(*INPUTS["video"]())
    assert (outcome - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize("family", DATA)
@pytest.mark.parametrize("method", ["q-dit", "g4w+p4a"])
def test_the_log_names_a_layer_that_nothing_reaches(method: str, family: str) -> None:
    assert quantized(family, method, broken(family, pruned), "common").log == {SILENT: [PRUNED[family]]}
    assert SILENT not in quantized(family, method, broken(family, tiny_row), "common").log


@pytest.mark.parametrize("method", METHODS)
def test_an_error_names_the_layer(method: str) -> None:
    def huge(block: Any) -> None:
        block.mlp.fc2.weight[3, 7] = 1e9

    if method in HOLD_ANY_WEIGHT:
        held = quantized("image", method, broken("image", huge), "common").model
        assert held.blocks[0].mlp.fc2.weight.isfinite().all() and held(*inputs()).isfinite().all()
        return
    with pytest.raises(CheckpointError, match=r"blocks\.0\.mlp\.fc2: scale .* cannot be stored as float16"):
        quantized("image", method, broken("image", huge), "common")


def test_the_other_rows_of_a_layer_keep_their_bits() -> None:
    whole = quantized("image", "rtn", random_dit(ONE_BLOCK), "common").model.blocks[0].attn.proj
    row = quantized("image", "rtn", broken("image", tiny_row), "common").model.blocks[0].attn.proj
    others = torch.arange(48) != 5
    for name in ("codes", "scale", "zero_point", "weight"):
        assert torch.equal(getattr(whole, name)[others], getattr(row, name)[others])
    assert row.weight[5].abs().max() <= 1e-7
