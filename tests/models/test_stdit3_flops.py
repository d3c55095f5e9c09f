"""Operations and sizes of an STDiT3 by its shape are those of the model itself."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from qdit.models.config import STDiT3Config
from qdit.models.stdit3 import STDiT3
from qdit.models.stdit3_flops import forward_flops
from qdit.quant.size import size_paper_mb, stdit3_shape
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs

SHAPES = {
    "tiny": TINY_VIDEO,
    "deeper": dataclasses.replace(TINY_VIDEO, depth=3, patch_size=4, mlp_ratio=4, num_heads=4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_operations_are_those_that_torch_counts(name):
    config, size = SHAPES[name], (3, 4, 8)
    x, timestep, text, _ = video_inputs(config, count=1, size=size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        random_stdit3(config)(x, timestep, text)
    assert forward_flops(config, size, text.shape[1]) == counter.get_total_flops()


@pytest.mark.parametrize("name", SHAPES)
def test_layers_are_the_sites_and_nothing_is_forgotten(name):
    model, shape = random_stdit3(SHAPES[name]), stdit3_shape(SHAPES[name])
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    weights = {s.name: model.get_submodule(s.name).weight for s in model.sites() if s.kind in ("linear", "conv")}
    assert {linear.name: (linear.outputs, linear.inputs) for linear in shape.linears} == {
        layer: (len(weight), weight[0].numel()) for layer, weight in weights.items()
    }
    roles = {site.name: site.role for site in model.sites()}
    assert all(linear.role == roles[linear.name] for linear in shape.linears)


def test_the_official_model_has_its_published_number_of_parameters():
    config = STDiT3Config()
    assert stdit3_shape(config).parameters == 1_207_643_936
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in STDiT3(config).parameters()) == 1_207_643_936


def test_size_is_the_papers_formula():
    shape = stdit3_shape(TINY_VIDEO)
    assert size_paper_mb(TINY_VIDEO, weight_bits=16) == pytest.approx(2e-6 * shape.parameters)
    core = shape.with_roles(("qkv", "attn_out", "cross_q", "cross_kv", "cross_out", "fc1", "fc2"))
    groups = sum(linear.outputs * linear.inputs // 8 for linear in core)
    sizes = {linear.name: 8 for linear in core}
    expected = (shape.parameters / 2 + 4 * groups) / 1e6
    assert size_paper_mb(TINY_VIDEO, weight_bits=4, group_sizes=sizes) == pytest.approx(expected)
    outputs = sum(linear.outputs for linear in [*core, *shape.with_roles(("t_block",))])
    assert size_paper_mb(TINY_VIDEO, weight_bits=4) == pytest.approx((shape.parameters / 2 + 4 * outputs) / 1e6)
