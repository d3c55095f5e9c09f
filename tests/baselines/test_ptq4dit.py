"""PTQ4DiT: the balance is folded exactly, equalizes saliences, and takes the samples that it says."""

from copy import deepcopy

import pytest
import torch

from baselines.ptq4dit import INITIAL_PER_STEP, Ptq4ditOptions, balance, chosen_samples
from qdit.methods.quantize import quantize_model
from qdit.models.roles import linear_of, select
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import collect_inputs
from qdit.quant.ranges import percentile_search
from qdit.quant.salience import activation_salience, balance_factors, temporal_salience, weight_salience
from qdit.sampling.protocol import Protocol
from tests.small_models import TINY, calibration_set, inputs, random_dit

DATA = calibration_set("per-step", samples=6)
INITIAL = DATA.spread(25, INITIAL_PER_STEP)
ROLES = ("qkv", "attn_out", "fc1")


def output(model):
    with torch.inference_mode():
        return model(*inputs())


@pytest.mark.parametrize(
    "options",
    [
        Ptq4ditOptions(),
        Ptq4ditOptions(ssc=False),
        Ptq4ditOptions(salience="timestep"),
        Ptq4ditOptions(ssc=False, salience="timestep"),
    ],
    ids=str,
)
def test_folding_leaves_the_function_unchanged(options):
    model = random_dit()
    full = output(model)
    before = deepcopy(model.state_dict())
    balance(model, select(model.sites(), roles=ROLES), INITIAL, options)
    assert (output(model) - full).norm() / full.norm() < 1e-4
    changed = {
        key.rpartition(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert {name.split(".", 2)[2] for name in changed} == {"adaLN_modulation.1", "attn.qkv", "attn.proj", "mlp.fc1"}


@pytest.mark.parametrize("roles", [("qkv", "fc1"), ("attn_out",)])
def test_without_ssc_activations_and_weights_have_equal_salience_on_the_calibration_data(roles):
    """Not all at once: the factors of V change the weight of qkv again."""
    model = random_dit()
    sites = select(model.sites(), roles=roles)
    balance(model, sites, INITIAL, Ptq4ditOptions(ssc=False))
    for site, x in collect_inputs(model, sites, INITIAL.batches(64)):
        of_activation, of_weight = activation_salience(x).amax(0), weight_salience(linear_of(model, site).weight)
        torch.testing.assert_close(of_activation, of_weight.detach(), rtol=1e-3, atol=1e-4)


def factors_of(options, site_role="fc1"):
    """The factors that were folded into the columns of a linear."""
    model = random_dit()
    sites = select(model.sites(), roles=(site_role,))
    balance(model, sites, INITIAL, options)
    return [linear_of(model, s).weight / linear_of(random_dit(), s).weight for s in sites]


@pytest.mark.parametrize("per", ["sample", "timestep"])
def test_ssc_weighs_samples_or_timesteps(per):
    model = random_dit()
    sites = select(model.sites(), roles=("fc1",))
    found = factors_of(Ptq4ditOptions(salience=per))
    for (site, x), columns in zip(collect_inputs(model, sites, INITIAL.batches(64)), found, strict=True):
        rows = x.abs().amax(1)
        if per == "timestep":
            rows = torch.stack([rows[INITIAL.timestep == t].amax(0) for t in INITIAL.timestep.unique()])
            assert len(rows) == 8
        of_weight = weight_salience(linear_of(model, site).weight.detach())
        expected = balance_factors(temporal_salience(rows, of_weight), of_weight)
        torch.testing.assert_close(columns, expected.expand_as(columns), rtol=1e-3, atol=1e-4)
    plain = factors_of(Ptq4ditOptions(ssc=False, salience=per))
    assert not torch.allclose(plain[0], found[0], rtol=1e-3)


def test_a_silent_channel_is_left_alone():
    model = random_dit()
    with torch.no_grad():  # channel 3 of the input of qkv is always zero
        adaln = model.blocks[0].adaLN_modulation[1]
        for row, value in ((3, 0.0), (48 + 3, -1.0)):
            adaln.weight[row] = 0
            adaln.bias[row] = value
    full = output(model)
    balance(model, select(model.sites(), roles=ROLES), INITIAL, Ptq4ditOptions())
    assert torch.isfinite(output(model)).all()
    assert (output(model) - full).norm() / full.norm() < 1e-4


@pytest.mark.parametrize(("steps", "each"), [(25, 4), (8, 14), (5, 20)])
def test_the_initial_set_has_pairs_with_and_without_condition_at_every_step(steps, each):
    every = calibration_set("per-step", samples=16, protocol=Protocol(steps=steps, cfg_scale=1.5))
    data, initial = chosen_samples(every, Ptq4ditOptions())
    assert 100 <= len(initial) == steps * each and len(data) == len(every)
    assert (initial.label == TINY.null_class).float().mean() == 0.5
    for step in range(steps):
        for pair in initial.at_step(step).x.split(2):
            assert torch.equal(pair[0], pair[1])


def test_the_released_initial_set_is_of_one_class():
    data, initial = chosen_samples(DATA, Ptq4ditOptions(first_classes=True))
    lowest = int(DATA.label.min())
    assert set(initial.label.tolist()) == {lowest, TINY.null_class}
    assert (initial.label == TINY.null_class).float().mean() == 0.5
    for pair in initial.x.split(2):
        assert torch.equal(pair[0], pair[1])
    assert len(data) == len(DATA)


def quantized(scope="common", *, weight_bits=4, **options):
    return quantize_model(
        random_dit(),
        "ptq4dit",
        weight_bits=weight_bits,
        activation_bits=8,
        scope=scope,
        calibration={"per-step": DATA},
        options={"iterations": 0, **options},
    )


@pytest.mark.parametrize(("large", "rows"), [(False, 1600), (True, 1280)])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_reconstruction_sees_as_many_rows_as_the_release_has(large, rows, cfg_scale):
    """25 steps × 64 for 256 pixels, 10 × 128 for 512; under guidance half of them unconditional copies."""
    images = 64 if cfg_scale > 1 else 128
    every = calibration_set("per-step", samples=images, protocol=Protocol(steps=250, cfg_scale=cfg_scale))
    data, initial = chosen_samples(every, Ptq4ditOptions(), large=large)
    assert (len(data), len(initial)) == (rows, 40 if large else 100)
    assert data.unconditional.float().mean() == (0.5 if cfg_scale > 1 else 0)


def factored(name="blocks.0.attn.v", **options):
    return quantized("own", **options).model.get_submodule(name).activation


def test_v_is_quantized_as_it_was_before_a_factor_was_folded_into_it():
    """x ↦ Q(k x) / k with one range for k x: the release divides after the product with the softmax output."""
    model, kept = random_dit(), factored(weight_bits=16)
    factors = balance(model, select(model.sites(), roles=ROLES), INITIAL, Ptq4ditOptions())
    assert torch.equal(kept.factor.flatten(), factors["blocks.0.attn.proj"])
    site = next(site for site in model.sites() if site.name == "blocks.0.attn.v")
    [(_, folded)] = collect_inputs(model, [site], INITIAL.batches(64))
    [(_, before)] = collect_inputs(random_dit(), [site], INITIAL.batches(64))
    torch.testing.assert_close(folded * kept.factor, before, rtol=1e-3, atol=1e-4)
    scale, zero_point = percentile_search(before.reshape(1, -1), 8)
    torch.testing.assert_close(kept.scale, scale[0], rtol=1e-3, atol=0)
    plain = StaticActivation(bits=8, scale=scale, zero_point=zero_point)
    torch.testing.assert_close(kept(folded) * kept.factor, plain(before), rtol=1e-3, atol=1.01 * float(scale))
    whole = factored(weight_bits=16, values="folded")
    assert type(whole) is StaticActivation and not torch.allclose(whole.scale, kept.scale, rtol=0.05)


def test_the_range_of_v_is_learned_as_one_number():
    kept, learned = factored(), factored(iterations=20, batch=8)
    assert learned.scale.numel() == 1 and not torch.equal(learned.scale, kept.scale)
    assert torch.equal(learned.factor, kept.factor) and torch.equal(learned.zero_point, kept.zero_point)


def test_only_reconstruction_has_a_log():
    assert quantized().log == {}
    log = quantized(iterations=2, batch=4).log["reconstruction"]
    assert (log["iterations"], log["batch"], len(log["units"])) == (2, 4, TINY.depth)


@pytest.mark.parametrize(("outside", "units"), [("network-order", 6), ("final", 3), ("none", 2)])
def test_scope_own_reconstructs_layers_outside_the_blocks(outside, units):
    log = quantized("own", outside=outside, iterations=2, batch=4).log["reconstruction"]
    assert len(log["units"]) == units


def test_the_softmax_output_keeps_eight_bits_and_nothing_else_is_an_exception():
    model = quantize_model(
        random_dit(),
        "ptq4dit",
        weight_bits=4,
        activation_bits=6,
        scope="own",
        calibration={"per-step": DATA},
        options={"iterations": 0},
    ).model
    for site in select(model.sites(), kinds=("linear", "conv", "operand")):
        module = model.get_submodule(site.name)
        assert module.activation.bits == (8 if site.role == "p" else 6), site
        assert module.weight_bits == (16 if site.kind == "operand" else 4), site
