"""Layers outside the blocks: their units, convolutions in training, and what their loss sums over."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from qdit.core.affine import Granularity
from qdit.models.roles import Site, linear_of, select
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import calibrate_static, round_weights
from qdit.quant.layers import layers, operands
from qdit.quant.learnable import SoftConv, SoftLinear, unfolded
from qdit.quant.ranges import minmax, shrink_search
from qdit.quant.reconstruction import Unit, reconstruct
from qdit.quant.sites import QuantizedConv, QuantizedLinear
from qdit.quant.unit_learning import Reconstruction, error_and_gradient
from qdit.quant.units import units_of
from qdit.quant.weight import quantize_weight
from tests.small_models import inputs, random_dit
from tests.small_video_models import random_stdit3

BITS = 3
CONFIG = Reconstruction(iterations=60, batch=16, rounding_rate=5e-2, scale_rate=1e-3)
BEFORE = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"]
BLOCKS = ["blocks.0", "blocks.1"]


def batches():
    x, timestep, label = inputs(count=48, seed=3)
    return [(x[i : i + 16], timestep[i : i + 16], label[i : i + 16]) for i in range(0, 48, 16)]


def names(model, outside, sites=None):
    return [unit.name for unit in units_of(layers(model, "own") if sites is None else sites, outside)]


def test_units_are_in_the_order_of_the_network_and_the_final_layer_is_a_block():
    model = random_dit()
    sites = [*layers(model, "own"), *operands(model)]
    assert names(model, "network-order", sites) == [*BEFORE, *BLOCKS, "final_layer"]
    assert names(model, "final", sites) == [*BLOCKS, "final_layer"]
    assert names(model, "none", sites) == BLOCKS
    final = units_of(sites, "final")[-1]
    assert [site.name for site in final.sites] == ["final_layer.adaLN_modulation.1", "final_layer.linear"]
    reconstructed = {site for unit in units_of(sites, "network-order") for site in unit.sites}
    assert reconstructed == set(sites), "the release leaves no layer out"


@pytest.mark.parametrize("outside", ["network-order", "final", "none"])
def test_scope_common_has_blocks_only(outside):
    model = random_dit()
    assert names(model, outside, layers(model, "common")) == BLOCKS


def test_layers_of_a_video_model_have_units_too():
    found = names(random_stdit3(), "network-order")
    assert found[0] == "x_embedder.proj" and found[-1] == "final_layer"
    assert {"t_block.1", "fps_embedder.mlp.2", "y_embedder.y_proj.fc1"} < set(found)


def convolution(kernel, *, seed=0):
    """A convolution of two or three dimensions, its input, and the same as a linear of patches."""
    draw = torch.Generator().manual_seed(seed)
    kind = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    conv = kind(3, 5, kernel_size=kernel, stride=kernel)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=draw))
    x = torch.randn(4, 3, *(cells * times for cells, times in zip(kernel, (3, 2, 4), strict=False)), generator=draw)
    return conv, x


def patches_by_hand(x, kernel):
    """Patches of x in float64, one position after the other, by plain loops."""
    rows = []
    for sample in x.double().numpy():
        places = np.ndindex(*(size // cells for size, cells in zip(sample.shape[1:], kernel, strict=True)))
        corners = [[at * cells for at, cells in zip(place, kernel, strict=True)] for place in places]
        boxes = [[slice(at, at + size) for at, size in zip(corner, kernel, strict=True)] for corner in corners]
        rows.append(np.stack([sample[(slice(None), *box)].reshape(-1) for box in boxes]))
    return np.stack(rows)


@pytest.mark.parametrize("kernel", [(2, 2), (1, 2), (2, 2, 2), (1, 2, 3)], ids=str)
def test_a_convolution_of_patches_is_a_linear(kernel):
    conv, x = convolution(kernel)
    patches = unfolded(x, kernel)
    np.testing.assert_array_equal(patches.double().numpy(), patches_by_hand(x, kernel))
    expected = conv.double()(x.double())
    product = patches_by_hand(x, kernel) @ conv.weight.detach().flatten(1).numpy().T + conv.bias.detach().numpy()
    np.testing.assert_allclose(product.transpose(0, 2, 1), expected.detach().flatten(2).numpy(), atol=1e-12)


def quantizers(weight):
    stored = quantize_weight(weight.detach().flatten(1), bits=BITS, granularity=Granularity("channel"), ranges=minmax)
    return stored, StaticActivation(bits=6, scale=torch.tensor([0.1]), zero_point=torch.tensor([30.0]))


@pytest.mark.parametrize("kernel", [(2, 2), (1, 2, 2)], ids=str)
def test_a_soft_convolution_computes_what_the_quantized_one_does(kernel):
    """With soft weights, in float64; without them, as the quantized module."""
    conv, x = convolution(kernel)
    stored, activation = quantizers(conv.weight)
    module = QuantizedConv(weight=stored, bias=conv.bias, activation=activation, kernel=kernel)
    soft = SoftConv(conv.weight.detach(), module, learn_rounding=True, learn_scale=True)
    with torch.no_grad():
        assert (soft.rounding.weight - conv.weight.flatten(1)).abs().mean() < 0.2 * float(stored.scale.mean())
        conv.weight.copy_(soft.rounding.weight.view_as(conv.weight))
    expected = conv.double()(activation(x).double())
    torch.testing.assert_close(soft(x).double(), expected, rtol=1e-5, atol=1e-5)
    rounded = SoftConv(conv.weight.detach().float(), module, learn_rounding=False, learn_scale=True)
    torch.testing.assert_close(rounded(x), module(x), rtol=1e-5, atol=1e-5)


class Embedder(nn.Module):
    """A network of one layer, which is a convolution or the linear of its patches."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        whole = random_dit()
        self.step_context, self.config = whole.step_context, whole.config

    def forward(self, x, timestep):
        return self.layer(x)

    def sites(self):
        return [Site("layer", "patch_embed", "conv" if isinstance(self.layer, nn.Conv2d) else "linear")]


def learned_layer(layer, data, learn):
    """What reconstruction makes of a single layer. Both kinds of layer see the same draws."""
    model, reference = Embedder(deepcopy(layer)), Embedder(layer)
    (site,) = model.sites()
    round_weights(model, [site], bits=BITS, rule=minmax)
    if learn == "both":
        calibrate_static(model, [site], [data], bits=6, rule=shrink_search)
    log = reconstruct(model, reference, [Unit("layer", [site])], lambda: [data], CONFIG, learn=learn)
    return model.layer, log["units"][0]


@pytest.mark.parametrize("learn", ["rounding", "both"])
def test_learned_rounding_of_a_convolution_is_that_of_the_equivalent_linear(learn):
    """With one position, so that both losses are summed over the channels."""
    conv, _ = convolution((2, 2))
    x, timestep = torch.randn(64, 3, 2, 2, generator=torch.Generator().manual_seed(5)), torch.arange(64)
    linear = nn.Linear(12, 5)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    as_conv, curve = learned_layer(conv, (x, timestep), learn)
    as_linear, expected = learned_layer(linear, (x.flatten(1), timestep), learn)
    assert type(as_conv) is QuantizedConv and type(as_linear) is QuantizedLinear
    assert torch.equal(as_conv.codes, as_linear.codes)
    if learn == "both":
        torch.testing.assert_close(as_conv.activation.scale, as_linear.activation.scale, rtol=1e-6, atol=0)
    assert [curve["before"], curve["after"]] == pytest.approx([expected["before"], expected["after"]], rel=1e-5)
    start = QuantizedConv(weight=quantizers(conv.weight)[0], bias=None, activation=None, kernel=(2, 2))
    assert not torch.equal(as_conv.codes, start.codes) and curve["after"] < curve["before"]


def test_the_loss_of_a_convolution_is_a_sum_over_channels_and_a_mean_over_positions():
    """`lp_loss` of the programs: |difference|² summed over the second dimension, averaged over the rest; in float64."""
    draw = torch.Generator().manual_seed(2)
    computed, target = (torch.randn(6, 5, 3, 4, generator=draw) for _ in range(2))
    unit = Unit("x_embedder.proj", [Site("x_embedder.proj", "patch_embed", "conv")])
    error, gradient = error_and_gradient(unit.arranged(computed), unit.arranged(target), 2.0)
    difference = (computed - target).double()
    assert float(error) == pytest.approx(float(difference.square().sum(1).mean()), rel=1e-6)
    torch.testing.assert_close(gradient.double(), 2 * difference.flatten(2) / (6 * 12))
    block = Unit("x_embedder", [Site("x_embedder.proj", "patch_embed", "conv")])
    assert block.arranged(computed) is computed, "what contains a convolution has tokens already"


@cache
def reconstructed(outside, learn="both"):
    """The model with all layers in 3 bits before and after, and the log."""
    model = random_dit()
    sites = layers(model, "own")
    round_weights(model, sites, bits=BITS, rule=minmax)
    calibrate_static(model, sites, batches(), bits=6, rule=shrink_search)
    plain = deepcopy(model)
    log = reconstruct(model, random_dit(), units_of(sites, outside), batches, CONFIG, learn=learn)
    return plain, model, log


@pytest.mark.parametrize("outside", ["network-order", "final", "none"])
def test_only_the_chosen_layers_change_and_each_comes_closer(outside):
    plain, model, log = reconstructed(outside)
    units = units_of(layers(plain, "own"), outside)
    assert [unit["name"] for unit in log["units"]] == [unit.name for unit in units]
    assert all(unit["after"] < unit["before"] for unit in log["units"])
    changed = {
        site.name
        for site in layers(plain, "own")
        if not torch.equal(linear_of(plain, site).codes, linear_of(model, site).codes)
    }
    assert changed == {site.name for unit in units for site in unit.sites}


def test_blocks_are_the_same_whether_or_not_the_final_layer_follows():
    first, second = reconstructed("none")[1].state_dict(), reconstructed("final")[1].state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items() if key.startswith("blocks."))


def test_later_units_see_the_reconstructed_embedding():
    """`before` of the second linear of the timestep embedding, behind the first as learned."""
    plain, model, log = reconstructed("network-order")
    at = [unit["name"] for unit in log["units"]].index("t_embedder.mlp.2")
    probe = deepcopy(model)
    probe.t_embedder.mlp[2] = deepcopy(plain.t_embedder.mlp[2])
    timestep = torch.cat([batch[1] for batch in batches()])
    with torch.no_grad():
        difference = probe.t_embedder(timestep) - random_dit().t_embedder(timestep)
    assert log["units"][at]["before"] == pytest.approx(float(difference.square().sum(1).mean()), rel=1e-4)


def test_scales_alone_are_learned_outside_the_blocks_too():
    plain, model, _ = reconstructed("network-order", "scales")
    for site in select(plain.sites(), roles=("patch_embed", "time_embed", "final_adaln", "final")):
        before, after = (linear_of(network, site) for network in (plain, model))
        assert torch.equal(before.codes, after.codes)
        assert not torch.equal(before.activation.scale, after.activation.scale), site.name


def test_soft_layers_have_the_shapes_of_the_layers_that_they_replace():
    conv, x = convolution((2, 2))
    stored, _ = quantizers(conv.weight)
    module = QuantizedConv(weight=stored, bias=None, activation=None, kernel=(2, 2))
    soft = SoftConv(conv.weight.detach(), module, learn_rounding=True, learn_scale=False)
    assert isinstance(soft, SoftLinear) and soft(x).shape == module(x).shape == (4, 5, 3, 2)
    assert soft.rounding.weight.shape == (5, 12)
