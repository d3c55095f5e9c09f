"""Quantizers for softmax and GELU outputs against their definitions, and against uniform ones on what they are for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import fake_quantize
from qdit.quant.nonlinear import (
    GELU_MINIMUM,
    log_sqrt2,
    log_sqrt2_search,
    signed_scale,
    twin_gelu,
    twin_softmax,
)


def softmax_outputs(sharpness=3.0, seed=0):
    return (sharpness * torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(seed))).softmax(-1)


@pytest.mark.parametrize(("bits", "k"), [(4, 2), (6, 2), (6, 4), (8, 2), (8, 4), (8, 6)])
def test_the_piecewise_softmax_quantizer_is_better_than_the_released_sum_which_adds_the_split(bits, k):
    x, split, coarse = softmax_outputs(), 2.0**-k, 1 / (2 ** (bits - 1) - 1)
    piecewise, released = (twin_softmax(x, split, bits, mode=mode) for mode in ("piecewise", "sum"))
    assert (piecewise - x).square().mean() < 0.5 * (released - x).square().mean()
    assert (piecewise - x).abs().max() <= coarse / 2 + 1e-6
    added = released - piecewise
    high = x >= split
    torch.testing.assert_close(added[high], torch.full_like(added[high], split))
    rounded = round(split / coarse) * coarse
    torch.testing.assert_close(added[~high], torch.full_like(added[~high], rounded))
    assert rounded > 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([3, 4, 8]), st.integers(0, 8))
def test_values_below_the_split_have_the_finer_steps(seed, bits, k):
    x, split = torch.rand(200, generator=torch.Generator().manual_seed(seed)), 2.0**-k
    result = twin_softmax(x, split, bits)
    coarse = 1 / (2 ** (bits - 1) - 1)
    low = x < split
    assert ((result - x)[low].abs() <= 0.5 * coarse * split + 1e-6).all()
    assert ((result - x)[~low].abs() <= 0.5 * coarse + 1e-6).all()
    assert len(result.unique()) <= 2**bits


def test_a_split_for_every_row_is_used_there():
    x, splits = softmax_outputs(), torch.tensor([0.5, 0.25, 0.125, 1.0])
    result = twin_softmax(x, splits[:, None, None, None], 4)
    for row in range(4):
        assert torch.equal(result[row], twin_softmax(x[row], float(splits[row]), 4))


def gelu_outputs():
    x = 2 * torch.randn(5000, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.gelu(x, approximate="tanh")


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_gelu_quantizer_keeps_the_negative_values_that_a_uniform_one_loses(bits):
    x = gelu_outputs()
    scale = signed_scale(x, bits)
    result, uniform = twin_gelu(x, scale, bits), fake_quantize(x, scale, torch.zeros(()), bits, symmetric=True)
    negative = x < 0
    assert (result - x)[negative].abs().max() <= 0.5 * GELU_MINIMUM / 2 ** (bits - 1) + 2e-4
    assert (result - x)[negative].square().sum() < 0.1 * (uniform - x)[negative].square().sum()
    torch.testing.assert_close(result[~negative], uniform[~negative])
    assert len(result.unique()) <= 2**bits


def test_the_negative_range_ends_at_gelus_minimum():
    values = torch.linspace(-5, 5, 100001)
    assert float(-torch.nn.functional.gelu(values).min()) == pytest.approx(GELU_MINIMUM, abs=1e-6)
    assert twin_gelu(torch.tensor([-3.0]), torch.tensor(0.1), 8).item() == pytest.approx(-GELU_MINIMUM)


def test_log_sqrt2_values_are_powers_of_the_root_of_two():
    x, scale = torch.tensor([1.0, 0.7, 0.5, 0.36, 0.01, 1e-4, 0.0, 3.0]), torch.tensor(1.0)
    result = log_sqrt2(x, scale, 4)
    expected = [1, 2**-0.5, 0.5, 2**-1.5, 2**-6.5, 0, 0, 1]
    assert result.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("bits", [4, 5])
def test_the_searched_log_scale_is_the_best_of_its_quantiles_and_better_than_uniform_on_small_values(bits):
    x = softmax_outputs(5.0)
    scale = log_sqrt2_search(x, bits)
    error = (log_sqrt2(x, scale, bits) - x).square().mean()
    for p in (0.999, 0.9999, 0.99999):
        other = torch.quantile(x.flatten(), p)
        assert error <= (log_sqrt2(x, other, bits) - x).square().mean() * (1 + 1e-6)
    uniform = fake_quantize(x, x.max() / (2**bits - 1), torch.zeros(()), bits)
    small = (x > 2.0 ** (-(2 ** (bits - 1)) + 1)) & (x < 0.5 / (2**bits - 1))
    assert (log_sqrt2(x, scale, bits) - x)[small].square().sum() < (uniform - x)[small].square().sum()


def test_the_symmetric_start_value_covers_the_largest_value():
    x = torch.tensor([[1.0, -3.0], [0.5, 0.25]])
    assert signed_scale(x, 3) == pytest.approx(3 / 3.5)
    assert signed_scale(x, 3, per=0).tolist() == pytest.approx([3 / 3.5, 0.5 / 3.5])
    assert signed_scale(x, 3, per=1).tolist() == pytest.approx([1 / 3.5, 3 / 3.5])
