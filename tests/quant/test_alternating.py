"""Codes and branches in turns: what each turn gains, what is kept, and what is stored."""

from functools import partial

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.methods.quantize import quantize_model
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.alternating import compensated, refined
from qdit.quant.checkpoint import save_checkpoint
from qdit.quant.low_rank import low_rank
from qdit.quant.mixed_precision import mixed_bits, output_sensitivity, raised_bits
from qdit.quant.ranges import minmax
from qdit.quant.sites import stored_weight
from qdit.quant.trial import Trial
from tests.small_models import calibration_set, inputs, random_dit

LAYER = Trial(4, 4, 8)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_branch_of_the_error_is_the_best_of_its_rank():
    """One turn: what is left are the smaller singular values of W − Q(W), up to float16."""
    weight = draw(40, 24)
    stored, branch = compensated(weight, 6, LAYER.rounded, turns=1)
    assert torch.equal(stored.codes, LAYER.rounded(weight).codes)
    left = torch.linalg.svdvals((weight - stored.dequantize()).double())[6:].norm()
    error = (weight - stored.dequantize() - branch.product()).norm()
    assert float(error) == pytest.approx(float(left), rel=1e-3)


def test_turns_reduce_the_error_of_the_weight():
    weight = draw(40, 24)

    def error(turns):
        stored, branch = compensated(weight, 6, LAYER.rounded, turns=turns)
        return float((weight - stored.dequantize() - branch.product()).norm())

    assert error(10) < error(2) < error(1) < float((weight - LAYER.rounded(weight).dequantize()).norm())


def test_refined_is_never_worse_than_the_first_branch_and_one_turn_is_that_branch():
    weight, x = draw(40, 24), draw(64, 24, seed=1)
    error = partial(LAYER.error, x, weight)

    def final(branch):
        return error(LAYER.rounded(weight - branch.product()).dequantize(), branch)

    first = refined(weight, 6, LAYER.rounded, error, turns=1)
    assert torch.equal(first.up, low_rank(weight, 6).up)
    assert final(refined(weight, 6, LAYER.rounded, error, turns=100)) < 0.9 * final(first)


def test_refined_stops_at_the_first_larger_error_and_keeps_the_branch_before():
    weight, errors = draw(8, 8), iter([5.0, 3.0, 3.0, 4.0, 1.0])
    seen = []

    def error(_rest, branch):
        seen.append(branch)
        return next(errors)

    assert refined(weight, 2, LAYER.rounded, error, turns=100) is seen[2] and len(seen) == 4
    for run in (lambda: refined(weight, 2, LAYER.rounded, error, turns=0), lambda: compensated(weight, 2, id, turns=0)):
        with pytest.raises(ConfigError, match="turns 0: at least 1"):
            run()


def test_a_trial_is_what_the_site_computes():
    """The error that a search looks at is that of the module in the quantized model."""
    data = {"per-step": calibration_set("per-step", samples=8)}
    options = {"rank": 3, "group_size": 8, "smooth": False, "turns": 2}
    model = quantize_model(
        random_dit(), "ditas", weight_bits=4, activation_bits=4, calibration=data, options=options
    ).model
    layer = Trial(4, 4, 8, "sample")
    for site in select(model.sites(), roles=CORE_ROLES):
        module, plain = linear_of(model, site), linear_of(random_dit(), site)
        stored, branch = compensated(plain.weight.detach(), 3, layer.rounded, turns=2)
        assert torch.equal(stored_weight(module).codes, stored.codes) and torch.equal(module.low_rank.up, branch.up)
        x = draw(3, 5, plain.in_features)
        expected = layer.output(x, stored.dequantize(), branch) + plain.bias
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("method", "kind"), [("ditas", "per-step"), ("svdquant", "trajectory")])
def test_a_file_holds_codes_pairs_factors_and_divisors_of_fc2(method, kind, tmp_path):
    """The packed size: 4-bit codes, 4 bytes for each group, 16-bit factors, and λ where no layer absorbs it."""
    options = {"rank": 3, "group_size": 8, "turns": 2}
    data = {kind: calibration_set(kind, samples=8)}
    quantized = quantize_model(
        random_dit(), method, weight_bits=4, activation_bits=8, calibration=data, options=options
    )
    save_checkpoint(tmp_path, quantized, {"method": method})
    from safetensors.torch import load_file

    tensors, expected, result = load_file(tmp_path / "model.safetensors"), 0, 0
    for site in select(quantized.model.sites(), roles=CORE_ROLES):
        outputs, width = linear_of(quantized.model, site).shape
        expected += outputs * width // 2 + 4 * outputs * width // 8 + 2 * 3 * (outputs + width)
        expected += 4 * width if linear_of(quantized.model, site).transform is not None else 0
        assert (linear_of(quantized.model, site).transform is not None) <= (site.role == "fc2")
        stored = [name for name in tensors if name.startswith(f"{site.name}.") and not name.endswith(".bias")]
        result += sum(tensors[name].nbytes for name in stored)
    assert result == expected


def test_sensitivity_is_the_change_of_the_output_and_the_model_stays():
    model, batch = random_dit(), inputs()
    sites = select(model.sites(), roles=["fc1"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = output_sensitivity(model, sites, [batch], lambda _site, weight: 0.5 * weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        full = model(*batch)
        for site in sites:
            changed = random_dit()
            linear_of(changed, site).weight.data.mul_(0.5)
            assert result[site.name] == pytest.approx(float((changed(*batch) - full).square().mean()), rel=1e-5)


def test_bits_are_raised_where_they_help_most_within_the_mean():
    sensitivity, sizes = {"a": 8.0, "b": 9.0, "c": 1.0, "d": 0.5}, {"a": 10, "b": 30, "c": 10, "d": 10}
    assert raised_bits(sensitivity, sizes, low=4, high=8, mean=4) == dict.fromkeys("abcd", 4)
    assert raised_bits(sensitivity, sizes, low=4, high=8, mean=8) == dict.fromkeys("abcd", 8)
    # 60 weights, one extra bit each: room for 15 weights at 8 bits. b does not fit; a comes first by weight.
    assert raised_bits(sensitivity, sizes, low=4, high=8, mean=5) == {"a": 8, "b": 4, "c": 4, "d": 4}
    with pytest.raises(ConfigError, match="mean_bits 3: allowed are 4 .* to 8"):
        raised_bits(sensitivity, sizes, low=4, high=8, mean=3)


def test_vidit_q_has_a_mean_of_bits():
    data = {"uniform": calibration_set("uniform", samples=8)}

    def quantize(mean):
        return quantize_model(
            random_dit(), "vidit-q", weight_bits=4, activation_bits=8, calibration=data, options={"mean_bits": mean}
        )

    quantized = quantize(5.5)
    sites = select(quantized.model.sites(), roles=CORE_ROLES)
    counts = {site.name: linear_of(quantized.model, site).weight.numel() for site in sites}
    bits = {site.name: linear_of(quantized.model, site).weight_bits for site in sites}
    assert bits == quantized.log["weight_bits"] and set(bits.values()) == {4, 8}
    assert 5 < sum(bits[name] * counts[name] for name in bits) / sum(counts.values()) <= 5.5
    with pytest.raises(ConfigError, match="mean_bits 3"):
        quantize(3.0)


def test_mixed_bits_look_at_the_rounding_of_each_layer():
    model, batch = random_dit(), inputs()
    sites = select(model.sites(), roles=CORE_ROLES)
    damaged = select(model.sites(), roles=["attn_out"])[1]
    with torch.no_grad():
        for row in range(12):  # rows with hardly any codes left
            linear_of(model, damaged).weight[row, row] = 50.0
    sizes = dict.fromkeys((site.name for site in sites), None)
    bits = mixed_bits(model, sites, [batch], low=4, high=8, mean=4.8, rule=minmax, group_sizes=sizes)
    assert bits[damaged.name] == 8
