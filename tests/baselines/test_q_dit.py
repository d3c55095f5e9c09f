"""What is particular to Q-DiT and G4W+P4A: allocations, GPTQ on quantized inputs, scopes, activation ranges."""

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.methods.quantize import quantize_model
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import DynamicActivation, StaticActivation
from qdit.quant.observe import observe_inputs
from tests.small_models import calibration_set, random_dit

CALIBRATION = {kind: calibration_set(kind, samples=24) for kind in ("trajectory", "ndtc")}


def quantized(name, *, bits=(4, 8), scope="common", **options):
    return quantize_model(
        random_dit(),
        name,
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration=CALIBRATION,
        options=options,
    ).model


def core(model):
    return {site.name: model.get_submodule(site.name) for site in select(model.sites(), roles=CORE_ROLES)}


def test_an_allocation_gives_every_layer_its_own_group_size():
    sizes = {name: (8, 16, 24, 48)[i % 4] for i, name in enumerate(core(random_dit()))}
    for name, module in core(quantized("q-dit", allocation=sizes)).items():
        assert module.activation.group_size == sizes[name]
        assert module.scale.shape == (module.weight.shape[0], module.weight.shape[1] // sizes[name])


def test_allocations_that_do_not_fit_are_refused():
    sizes = dict.fromkeys(core(random_dit()), 16)
    with pytest.raises(ConfigError, match=r"did you mean 'blocks\.0\.attn\.qkv'"):
        quantized("q-dit", allocation={**sizes, "blocks.0.attn.qkw": 16})
    with pytest.raises(ConfigError, match="1 quantized layers have no group size"):
        quantized("q-dit", allocation={k: v for k, v in sizes.items() if k != "blocks.1.mlp.fc2"})
    with pytest.raises(ConfigError, match="does not divide"):
        quantized("q-dit", allocation={**sizes, "blocks.0.attn.qkv": 5})


def output_errors(name, **options):
    """‖(W − Ŵ) X‖ of every linear on full-precision calibration inputs."""
    model = quantized(name, bits=(4, 16), **options)
    full = random_dit()
    gram = {}

    def add(site, x):
        rows = x.flatten(0, -2).double()
        gram[site.name] = gram.get(site.name, 0) + rows.T @ rows

    observe_inputs(full, select(full.sites(), roles=CORE_ROLES), CALIBRATION["trajectory"].batches(8), add)
    errors = {}
    for layer, module in core(model).items():
        change = (module.weight - full.get_submodule(layer).weight.detach()).double()
        errors[layer] = float((change @ gram[layer] * change).sum())
    return errors


@pytest.mark.parametrize("group_size", [16, None])
def test_gptq_weights_serve_the_calibration_inputs_better_than_rounded_ones(group_size):
    rounded = output_errors("rtn", group_size=group_size)
    solved = output_errors("g4w+p4a", group_size=group_size)
    assert all(solved[layer] < rounded[layer] for layer in rounded)


def test_g4w_p4a_has_one_static_range_per_tensor_and_q_dit_none():
    for module in core(quantized("g4w+p4a", group_size=16)).values():
        assert isinstance(module.activation, StaticActivation) and module.activation.scale.numel() == 1
    for module in core(quantized("q-dit", group_size=16)).values():
        assert isinstance(module.activation, DynamicActivation)


@pytest.mark.parametrize("name", ["q-dit", "g4w+p4a"])
def test_scope_own_adds_the_adaln_weights_without_activation_quantizers(name):
    model = quantized(name, scope="own", group_size=16)
    adaln = [model.get_submodule(site.name) for site in select(model.sites(), roles=["adaln"])]
    assert all(module.weight_bits == 4 and module.activation is None for module in adaln)
    common = quantized(name, group_size=16)
    assert all(
        isinstance(common.get_submodule(site.name), torch.nn.Linear) for site in select(common.sites(), roles=["adaln"])
    )


def test_q_dit_solves_for_the_quantized_inputs():
    """With coarser activations the Hessians, and so the weights, are others."""
    fine, coarse = quantized("q-dit", bits=(4, 8), group_size=16), quantized("q-dit", bits=(4, 3), group_size=16)
    assert any(
        not torch.equal(a.codes, b.codes) for a, b in zip(core(fine).values(), core(coarse).values(), strict=True)
    )


def test_static_group_ranges_of_rtn_follow_the_channels():
    model = quantized("rtn", group_size=16, activation="static")
    scales = [module.activation.scale for module in core(model).values()]
    assert all(scale.numel() > 1 for scale in scales)
    assert any(scale.max() > 1.05 * scale.min() for scale in scales)
