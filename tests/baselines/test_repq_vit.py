"""RepQ-ViT: the reparametrization is exact, and makes one range fit every channel."""

from copy import deepcopy

import pytest
import torch

from baselines.repq_vit import reparametrize
from qdit.methods.quantize import quantize_model
from qdit.models.roles import ModulationRows, linear_of, select
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import collect_inputs
from qdit.quant.nonlinear import LogSqrt2Activation
from qdit.quant.ranges import percentile_search
from tests.small_models import calibration_set, inputs, random_dit

DATA = calibration_set("uniform", samples=24)
BATCHES = list(DATA.batches(16))


def normed(model):
    return [site for site in model.sites() if isinstance(site.fold_source, ModulationRows)]


def output(model, batch=None):
    with torch.inference_mode():
        return model(*(batch or inputs()))


def uneven_dit():
    """Channels of very different size and offset before every linear after a LayerNorm."""
    model = random_dit()
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for site in normed(model):
            adaln = linear_of(model, site.fold_source.linear)
            for rows in (site.fold_source.shift, site.fold_source.scale):
                adaln.bias[slice(*rows)] += 2 * torch.randn(48, generator=draw)
    return model


@pytest.mark.parametrize("make", [random_dit, uneven_dit])
@pytest.mark.parametrize("bits", [4, 8])
def test_folding_scale_and_offset_leaves_the_function_unchanged(make, bits):
    model = make()
    full = output(model)
    before = deepcopy(model.state_dict())
    found = reparametrize(model, normed(model), BATCHES, bits=bits)
    assert set(found) == set(normed(model)) and {site.role for site in found} == {"qkv", "fc1", "final"}
    assert (output(model) - full).norm() / full.norm() < 1e-4
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    adaln = {f"{site.fold_source.linear}.{what}" for site in found for what in ("weight", "bias")}
    assert changed == adaln | {f"{site.name}.{what}" for site in found for what in ("weight", "bias")}


def test_the_folded_inputs_of_all_channels_have_the_common_range():
    """Per channel the range of the quantiles that were chosen becomes [−z̃ s̃, (2^b − 1 − z̃) s̃]."""
    model, plain = uneven_dit(), uneven_dit()
    sites = normed(model)
    found = reparametrize(model, sites, BATCHES, bits=8)
    own = dict(collect_inputs(plain, sites, BATCHES))
    for site, x in collect_inputs(model, sites, BATCHES):
        scale, zero_point = percentile_search(own[site].flatten(0, 1).t().contiguous(), 8)
        common = found[site].scale
        low, high = -zero_point * scale, (255 - zero_point) * scale
        factor = scale / common
        offset = (found[site].zero_point - zero_point) * common
        ends = torch.cat([low, high], dim=1) / factor - offset
        expected = torch.stack([-found[site].zero_point * common, (255 - found[site].zero_point) * common], dim=1)
        torch.testing.assert_close(ends, expected.expand(48, 2), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(common, scale.mean().reshape(1))
        folded = own[site] / factor[:, 0] - offset[:, 0]
        torch.testing.assert_close(x, folded, rtol=1e-2, atol=1e-2)


def test_one_range_after_reparametrization_is_far_better_than_one_range_before():
    model, plain = uneven_dit(), uneven_dit()
    sites = [site for site in normed(model) if site.role in ("qkv", "fc1")]
    found = reparametrize(model, sites, BATCHES, bits=6)
    for site, x in collect_inputs(plain, sites, BATCHES):
        quantizer = StaticActivation(
            bits=6, **dict(zip(("scale", "zero_point"), percentile_search(x.reshape(1, -1), 6), strict=True))
        )
        linear = linear_of(plain, site)
        before = torch.nn.functional.linear(quantizer(x) - x, linear.weight).square().sum()
        (_, folded) = next(iter(collect_inputs(model, [site], BATCHES)))
        after = torch.nn.functional.linear(found[site](folded) - folded, linear_of(model, site).weight).square().sum()
        assert after < 0.5 * before, site


def test_a_channel_that_hardly_varies_keeps_its_place_in_the_common_range():
    """Its scale is raised to 1e-4 of the mean; its values, far from zero, must stay inside the range."""
    model = random_dit()
    with torch.no_grad():
        adaln = model.blocks[0].adaLN_modulation[1]
        for row, value in ((7, 1.5), (48 + 7, -1 + 3e-7)):
            adaln.weight[row] = 0
            adaln.bias[row] = value
    full = output(model)
    (site,) = [site for site in normed(model) if site.role == "qkv" and site.block == 0]
    found = reparametrize(model, [site], BATCHES, bits=8)[site]
    ((_, x),) = collect_inputs(model, [site], BATCHES)
    low, high = -found.zero_point * found.scale, (255 - found.zero_point) * found.scale
    assert (x[..., 7] > low - found.scale).all() and (x[..., 7] < high + found.scale).all()
    assert (output(model) - full).norm() / full.norm() < 1e-3


def quantized(**options):
    return quantize_model(
        uneven_dit(),
        "repq-vit",
        weight_bits=8,
        activation_bits=4,
        scope="own",
        calibration={"uniform": DATA},
        options=options,
    ).model


def test_reparametrization_helps_the_whole_model():
    full = output(uneven_dit())
    damage = [float((output(quantized(reparametrize=r)) - full).norm()) for r in (True, False)]
    assert damage[0] < damage[1]


def test_scope_own_has_log_quantizers_after_softmax_and_eight_bits_before_the_convolution():
    model = quantized()
    softmax = select(model.sites(), roles=("p",))
    assert all(isinstance(model.get_submodule(site.name).activation, LogSqrt2Activation) for site in softmax)
    (patch,) = select(model.sites(), roles=("patch_embed",))
    assert model.get_submodule(patch.name).activation.bits == 8
    bits = {model.get_submodule(site.name).activation.bits for site in select(model.sites(), roles=("q", "k", "v"))}
    assert bits == {4}
    for site in select(model.sites(), roles=("adaln", "time_embed", "final_adaln")):
        assert type(model.get_submodule(site.name)) is torch.nn.Linear
