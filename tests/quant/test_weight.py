"""Quantized weights: error bounds, granularities that agree where they must, and values that cannot be stored."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import Granularity
from qdit.core.errors import CheckpointError, ConfigError
from qdit.quant.ranges import minmax, minmax_search, percentile_search, shrink_search, threshold_search, zero_minmax
from qdit.quant.weight import QuantizedWeight, quantize_weight

RULES = {
    "minmax": minmax,
    "zero_minmax": zero_minmax,
    "percentile": percentile_search,
    "shrink": shrink_search,
    "minmax_search": minmax_search,
    "threshold": threshold_search,
}
CHANNEL = Granularity("channel")


def grouped(size: int) -> Granularity:
    return Granularity("group", size)


def weight_of(seed: int, rows: int = 6, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) * torch.rand(rows, 1, generator=generator).exp()


def mse(weight: torch.Tensor, quantized: QuantizedWeight) -> float:
    return float((quantized.dequantize() - weight).double().square().mean())


@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from([None, 48, 16, 4, 1]))
@settings(deadline=None, max_examples=60)
def test_error_is_at_most_half_a_stored_step(seed: int, bits: int, size: int | None) -> None:
    weight = weight_of(seed)
    granularity = CHANNEL if size is None else grouped(size)
    q = quantize_weight(weight, bits=bits, granularity=granularity, ranges=minmax)
    assert q.codes.dtype == q.zero_point.dtype == torch.int16
    assert q.scale.dtype == torch.float16
    assert 0 <= q.codes.min() <= q.codes.max() < 2**bits
    scale = q.scale.float().repeat_interleave(48 // q.scale.shape[1], dim=1)
    # Rounding the scale to half precision (2^-11, or 2^-25 where subnormal) moves the ends of the range by that many
    # levels.
    levels = 2**bits - 1
    assert ((q.dequantize() - weight).abs() <= scale * (0.5 + levels * 2.0**-11 + 1e-4) + levels * 2.0**-25).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_codes_belong_to_the_stored_scale(bits: int) -> None:
    """Quantizing the dequantized weight on the stored grid gives the same codes; on the unrounded grid it need not."""
    q = quantize_weight(weight_of(bits), bits=bits, granularity=grouped(16), ranges=minmax)
    scale, zero_point = q.scale.float(), q.zero_point.float()
    again = quantize_weight(
        q.dequantize(),
        bits=bits,
        granularity=grouped(16),
        ranges=lambda rows, _: (scale.view(-1, 1), zero_point.view(-1, 1)),
    )
    assert torch.equal(again.codes, q.codes)
    assert torch.equal(again.dequantize(), q.dequantize())


def test_one_group_per_row_equals_channel() -> None:
    weight = weight_of(1)
    a, b = (quantize_weight(weight, bits=4, granularity=g, ranges=minmax) for g in (CHANNEL, grouped(48)))
    assert torch.equal(a.dequantize(), b.dequantize())
    assert a.granularity == b.granularity == CHANNEL
    assert a.group_size is None


def test_granularities_are_derived_from_the_shapes() -> None:
    weight = weight_of(2)
    q = quantize_weight(weight, bits=4, granularity=grouped(16), ranges=minmax)
    assert (q.granularity, q.group_size, tuple(q.scale.shape)) == (grouped(16), 16, (6, 3))
    q = quantize_weight(weight, bits=4, granularity=Granularity("tensor"), ranges=minmax)
    assert (q.granularity, tuple(q.scale.shape)) == (Granularity("tensor"), (1, 1))
    low, high = weight.min(), weight.max()
    assert float(q.scale) == pytest.approx(float(high - low) / 15, rel=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_groups_do_not_see_each_other(rule: str) -> None:
    """Permuting whole groups permutes codes and scales with them."""
    weight = weight_of(3)
    order = torch.tensor([2, 0, 1])
    moved = weight.view(6, 3, 16)[:, order].reshape(6, 48)
    side = partial(threshold_search, side="both") if rule == "threshold" else RULES[rule]
    a, b = (quantize_weight(w, bits=4, granularity=grouped(16), ranges=side) for w in (weight, moved))
    assert torch.equal(a.scale[:, order], b.scale)
    assert torch.equal(a.codes.view(6, 3, 16)[:, order].reshape(6, 48), b.codes)


@given(st.integers(0, 10**6), st.sampled_from([4, 6, 8]))
@settings(deadline=None, max_examples=30)
def test_nested_refinement_lowers_the_error_of_minmax(seed: int, bits: int) -> None:
    weight = weight_of(seed, rows=24, width=128)
    errors = [
        mse(
            weight, quantize_weight(weight, bits=bits, granularity=grouped(g), ranges=minmax, scale_dtype=torch.float32)
        )
        for g in (128, 32, 8, 2)
    ]
    assert errors == sorted(errors, reverse=True)


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(deadline=None, max_examples=30)
def test_symmetric_uses_unsigned_codes_with_the_middle_as_zero(seed: int, bits: int) -> None:
    weight = weight_of(seed)
    q = quantize_weight(weight, bits=bits, granularity=CHANNEL, ranges=partial(minmax, symmetric=True), symmetric=True)
    assert (q.zero_point == 2 ** (bits - 1)).all()
    scale = q.scale.float()
    expected = (weight / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
    assert torch.equal(q.dequantize(), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_rows_are_exact_and_constant_rows_finite(rule: str, bits: int) -> None:
    weight = torch.stack([torch.zeros(32), torch.full((32,), 3.0), torch.full((32,), -3.0), torch.linspace(-1, 1, 32)])
    q = quantize_weight(weight, bits=bits, granularity=CHANNEL, ranges=RULES[rule])
    result = q.dequantize()
    assert (result[0] == 0).all()
    assert result.isfinite().all()
    assert (result[1:3] - weight[1:3]).abs().max() <= 3 / (2**bits - 1) + 0.01


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_huge_weights_have_no_half_precision_scale_and_tiny_ones_the_smallest(rule: str, factor: float) -> None:
    """No NaN: weights next to zero are as near to it as the smallest scale allows, huge ones are refused."""
    weight = weight_of(5) * factor
    if factor < 1:
        q = quantize_weight(weight, bits=8, granularity=CHANNEL, ranges=RULES[rule])
        assert (q.dequantize() - weight).abs().max() <= weight.abs().max()
        assert (q.scale > 0).all()
    else:
        with pytest.raises(CheckpointError, match=r"cannot be stored as float16, whose .* 5.96e-08 to 65504"):
            quantize_weight(weight, bits=8, granularity=CHANNEL, ranges=RULES[rule])
    exact = quantize_weight(weight, bits=8, granularity=CHANNEL, ranges=RULES[rule], scale_dtype=torch.float32)
    assert exact.dequantize().isfinite().all()


def test_zero_points_are_not_clamped_but_must_fit() -> None:
    weight = torch.linspace(5, 6, 64)[None]
    q = quantize_weight(weight, bits=4, granularity=CHANNEL, ranges=shrink_search)
    assert q.zero_point.item() < 0
    assert (q.dequantize() - weight).abs().max() < 0.05
    with pytest.raises(CheckpointError, match="does not fit int16"):
        quantize_weight(weight + 1e4, bits=4, granularity=CHANNEL, ranges=shrink_search)


def test_what_cannot_be_quantized_is_refused_in_one_line() -> None:
    weight = weight_of(6)
    for bits in (0, 1, 9, 16):
        with pytest.raises(ConfigError, match=f"weight_bits {bits}: allowed are 2 to 8"):
            quantize_weight(weight, bits=bits, granularity=CHANNEL, ranges=minmax)
    with pytest.raises(ConfigError, match=r"group_size 7 does not divide 48; legal: \[1, 2, 3, 4"):
        quantize_weight(weight, bits=4, granularity=grouped(7), ranges=minmax)
    with pytest.raises(ConfigError, match="granularity token"):
        quantize_weight(weight, bits=4, granularity=Granularity("token"), ranges=minmax)
    with pytest.raises(ConfigError, match=r"not \(out, in\)"):
        quantize_weight(weight[None], bits=4, granularity=CHANNEL, ranges=minmax)
    for value in (torch.nan, torch.inf):
        broken = weight.clone()
        broken[1, 2] = value
        with pytest.raises(CheckpointError, match="1 NaN or infinite"):
            quantize_weight(broken, bits=4, granularity=CHANNEL, ranges=minmax)


def test_half_precision_weights_are_computed_in_float32() -> None:
    weight = weight_of(7).half()
    a = quantize_weight(weight, bits=4, granularity=CHANNEL, ranges=minmax)
    b = quantize_weight(weight.float(), bits=4, granularity=CHANNEL, ranges=minmax)
    assert torch.equal(a.codes, b.codes)
    assert a.dequantize(torch.float16).dtype == torch.float16
