"""AdaRound: soft rounding as differentiated by hand equals autograd; hard codes are floor or ceiling."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import Granularity
from qdit.kernels.backend import forced
from qdit.kernels.library import available
from qdit.quant.ranges import minmax, shrink_search
from qdit.quant.rounding import (
    RoundingSteps,
    SoftRounding,
    initial_alpha,
    rectified_sigmoid,
    round_weight,
    rounding_regularizer,
)
from qdit.quant.weight import QuantizedWeight, quantize_weight

GRANULARITIES = [Granularity("channel"), Granularity("group", 4), Granularity("tensor")]


def example(granularity=GRANULARITIES[0], *, bits=3, rule=shrink_search, seed=0):
    """A weight and its quantized form; shrunk ranges leave some weights outside, where codes are clamped."""
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed))
    return weight, quantize_weight(weight, bits=bits, granularity=granularity, ranges=rule)


def spread(stored: QuantizedWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, zero_point) of every element."""
    rows, width = stored.codes.shape
    repeat = width // stored.scale.shape[1]
    return tuple(
        part.float().repeat_interleave(repeat, dim=1).expand(rows, width) for part in (stored.scale, stored.zero_point)
    )


def disturbed(soft: SoftRounding, seed: int = 1) -> SoftRounding:
    """The same with α far from its start: some h are clamped to 0 or 1, some lie between."""
    with torch.no_grad():
        soft.alpha.add_(3 * torch.randn(soft.alpha.shape, generator=torch.Generator().manual_seed(seed)))
    soft.renew()
    return soft


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("penalty", [(None, 0.0), (20.0, 0.01), (2.0, 0.3)])
def test_value_and_gradient_are_those_of_autograd(granularity, penalty):
    """In float64."""
    beta, strength = penalty
    weight, stored = example(granularity)
    soft = in_float64(disturbed(SoftRounding(weight, stored)), weight)
    alpha = soft.alpha.detach().clone().requires_grad_()
    scale, zero_point = (part.double() for part in spread(stored))
    expected = round_weight(weight.double(), alpha, scale, zero_point, stored.bits, hard=False)
    torch.testing.assert_close(soft.weight.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loss = (expected * direction).sum()
    if beta is not None:
        loss = loss + strength * rounding_regularizer(alpha, beta)
    loss.backward()
    torch.testing.assert_close(soft.gradient(direction, beta, strength), alpha.grad, rtol=1e-9, atol=1e-12)
    h = rectified_sigmoid(alpha.detach())
    assert ((h == 0) | (h == 1)).any() and ((h > 0) & (h < 1)).any()
    assert (alpha.grad != 0).any()


def in_float64(soft: SoftRounding, weight: torch.Tensor) -> SoftRounding:
    """The same rounding with all its numbers in float64."""
    double = SoftRounding(weight.double(), replace(soft.stored, scale=soft.stored.scale.double()))
    double.alpha = torch.nn.Parameter(soft.alpha.detach().double())
    scale, zero_point = (part.double() for part in spread(soft.stored))
    levels = 2**soft.stored.bits - 1
    double.base = ((soft.floor.double()).clamp(0, levels) - zero_point) * scale
    double.span = soft.span.double()
    double.weight = torch.nn.Parameter(torch.empty_like(double.base))
    double.renew()
    return double


def both_steps(monkeypatch, penalties, rate=0.3):
    """Two roundings after some steps with the same gradients: by torch, and by the compiled library."""
    results = []
    for backend in ("torch", ""):
        monkeypatch.setenv("QDIT_KERNELS", backend)
        forced.cache_clear()
        roundings = [SoftRounding(*example(seed=seed)) for seed in (0, 1)]
        steps = RoundingSteps(roundings)
        if not backend and steps.backend is None:
            pytest.skip("no compiled library")
        generator = torch.Generator().manual_seed(4)
        for beta, strength in penalties:
            for rounding in roundings:
                rounding.weight.grad = torch.randn(rounding.weight.shape, generator=generator)
            steps.step(rate, beta, strength)
        count = steps.open()
        steps.settle()
        results.append((roundings, count))
    return results


@pytest.mark.parametrize("count", [1, 3, 40])
def test_compiled_steps_are_those_of_torch(monkeypatch, count):
    """Also after elements were dropped that have decided: their soft weights stay, and their codes."""
    penalties = [(None, 0.0), *[(20.0 - 0.4 * number, 0.5) for number in range(count - 1)]]
    (by_torch, open_by_torch), (compiled, open_compiled) = both_steps(monkeypatch, penalties)
    assert open_compiled == open_by_torch
    for expected, result in zip(by_torch, compiled, strict=True):
        torch.testing.assert_close(result.weight, expected.weight, rtol=1e-4, atol=1e-5)
        assert torch.equal(result.hard().codes, expected.hard().codes)
        h = rectified_sigmoid(expected.alpha.detach())
        between = (h > 0) & (h < 1)
        torch.testing.assert_close(result.alpha[between], expected.alpha[between], rtol=1e-4, atol=1e-4)
    if count == 40:
        assert open_compiled < sum(rounding.alpha.numel() for rounding in compiled)


def test_all_variants_of_the_library_give_the_same_bits(monkeypatch):
    results = []
    for name in [name for name in available() if name != "torch"]:
        monkeypatch.setenv("QDIT_KERNELS", name)
        forced.cache_clear()
        rounding = SoftRounding(*example())
        steps = RoundingSteps([rounding])
        for number in range(8):
            rounding.weight.grad = torch.randn(6, 16, generator=torch.Generator().manual_seed(number))
            steps.step(0.1, 5.0, 0.1)
        steps.settle()
        results.append(torch.cat([rounding.alpha.detach(), rounding.weight.detach()]))
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_regularizers_gradient_pushes_every_undecided_weight_to_its_nearer_end():
    weight, stored = example()
    soft = SoftRounding(weight, stored)
    gradient = soft.gradient(torch.zeros_like(weight), 2.0, 0.01)
    h = rectified_sigmoid(soft.alpha.detach())
    undecided = (h > 1e-3) & (h < 1 - 1e-3) & ((h - 0.5).abs() > 1e-3)
    assert undecided.any()
    assert torch.equal(gradient[undecided] < 0, h[undecided] > 0.5)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_it_starts_at_the_weight_itself_and_hardens_to_the_nearest_codes(granularity):
    weight, stored = example(granularity, rule=minmax)
    scale, zero_point = spread(stored)
    soft = SoftRounding(weight, stored)
    inside = ((weight / scale + zero_point) >= 0) & ((weight / scale + zero_point) <= 2**stored.bits - 1)
    assert inside.float().mean() > 0.7
    torch.testing.assert_close(soft.weight.detach()[inside], weight[inside], rtol=1e-4, atol=1e-5)
    assert torch.equal(soft.hard().codes, stored.codes)


def test_initial_alpha_gives_the_fraction():
    weight = torch.linspace(-2.3, 2.3, 47)
    h = rectified_sigmoid(initial_alpha(weight, torch.tensor(0.37)))
    torch.testing.assert_close(h, (weight / 0.37) - (weight / 0.37).floor(), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4, 8]), st.sampled_from(GRANULARITIES))
def test_hard_codes_are_floor_or_ceiling_on_the_fixed_grid(seed, bits, granularity):
    weight, stored = example(granularity, bits=bits, seed=seed)
    soft = disturbed(SoftRounding(weight, stored), seed)
    hard = soft.hard()
    assert torch.equal(hard.scale, stored.scale) and torch.equal(hard.zero_point, stored.zero_point)
    assert hard.bits == bits and hard.codes.dtype == stored.codes.dtype
    scale, zero_point = spread(stored)
    floor = (weight / scale).floor() + zero_point
    levels = 2**bits - 1
    low, high = floor.clamp(0, levels), (floor + 1).clamp(0, levels)
    assert ((hard.codes == low) | (hard.codes == high)).all()
    expected = round_weight(weight, soft.alpha.detach(), scale, zero_point, bits, hard=True)
    torch.testing.assert_close(hard.dequantize(), expected)


def test_the_regularizer_is_zero_where_all_have_decided_and_largest_half_way():
    assert rounding_regularizer(torch.tensor([-20.0, 20.0]), 4.0) == 0
    assert rounding_regularizer(torch.zeros(3), 4.0) == pytest.approx(3)
