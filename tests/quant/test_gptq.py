"""GPTQ against a float64 reference that recomputes the inverse Hessian for every column, and its invariants."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import Granularity
from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.quant.gptq import HessianAccumulator, gptq, inverse_factor, solve
from qdit.quant.ranges import zero_minmax
from qdit.quant.weight import quantize_weight


def problem(seed: int, rows: int = 8, width: int = 48, samples: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and correlated inputs (samples, 20, width)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    inputs = torch.randn(samples, 20, width, generator=generator) @ mixing
    return torch.randn(rows, width, generator=generator), inputs


def hessian_of(inputs: torch.Tensor) -> torch.Tensor:
    accumulator = HessianAccumulator(inputs.shape[-1])
    accumulator.add(inputs)
    return accumulator.hessian


def grid(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.minimum(weight.min(1), 0), np.maximum(weight.max(1), 0)
    empty = (low == 0) & (high == 0)
    low, high = np.where(empty, -1, low), np.where(empty, 1, high)
    scale = (high - low) / (2**bits - 1)
    return scale, np.rint(-low / scale)


def naive(
    weight: torch.Tensor, hessian: torch.Tensor, bits: int, group_size: int | None, *, stale_block: int | None
) -> np.ndarray:
    """Optimal Brain Quantization in the order of the columns, float64: after each column the inverse Hessian of the
    columns that are left is computed anew. Grids of groups come from the weights as they are now, or (`stale_block`)
    as they were when the current block of columns began.
    """
    w, h = weight.double().numpy().copy(), hessian.double().numpy().copy()
    width = w.shape[1]
    h += 0.01 * np.mean(np.diag(h)) * np.eye(width)
    result = np.zeros_like(w)
    scale, zero_point = grid(w, bits)
    frozen = w.copy()
    for column in range(width):
        if stale_block and column % stale_block == 0:
            frozen = w.copy()
        if group_size and column % group_size == 0:
            scale, zero_point = grid((frozen if stale_block else w)[:, column : column + group_size], bits)
        inverse = np.linalg.inv(h[column:, column:])
        codes = np.clip(np.rint(w[:, column] / scale) + zero_point, 0, 2**bits - 1)
        result[:, column] = (codes - zero_point) * scale
        error = (w[:, column] - result[:, column]) / inverse[0, 0]
        w[:, column:] -= np.outer(error, inverse[0])
    return result


CASES = list(product([None, 48, 16, 12, 24], [True, False]))


@pytest.mark.parametrize(("group_size", "stale"), CASES)
@pytest.mark.parametrize("block_size", [48, 20, 7])
def test_equals_a_naive_float64_reference(group_size: int | None, stale: bool, block_size: int) -> None:
    """Groups of 12 and 24 straddle the blocks; without stale statistics the block size must not matter at all."""
    weight, inputs = problem(0)
    hessian = hessian_of(inputs)
    expected = naive(weight, hessian, 4, group_size, stale_block=block_size if stale else None)
    found = gptq(
        weight,
        hessian,
        bits=4,
        group_size=group_size,
        block_size=block_size,
        stale_groups=stale,
        scale_dtype=None,
    )
    np.testing.assert_allclose(found.dequantize().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_stale_and_updated_statistics_differ_only_inside_blocks() -> None:
    weight, inputs = problem(1)
    hessian = hessian_of(inputs)

    def scales(stale: bool, block_size: int) -> torch.Tensor:
        return gptq(
            weight, hessian, bits=4, group_size=16, block_size=block_size, stale_groups=stale, scale_dtype=None
        ).scale

    assert torch.equal(scales(True, 16), scales(False, 16))
    assert not torch.equal(scales(True, 48), scales(False, 48))
    assert torch.equal(scales(True, 48), zero_minmax(weight.reshape(-1, 16), 4)[0].view(-1, 3))


@given(
    st.integers(0, 10**6), st.sampled_from([2, 3, 4, 6]), st.sampled_from([None, 12, 16]), st.booleans(), st.booleans()
)
@settings(deadline=None, max_examples=25)
def test_output_error_is_not_above_rounding_to_nearest(
    seed: int, bits: int, group_size: int | None, act_order: bool, static_groups: bool
) -> None:
    weight, inputs = problem(seed)
    granularity = Granularity("channel") if group_size is None else Granularity("group", group_size)
    rtn = quantize_weight(weight, bits=bits, granularity=granularity, ranges=zero_minmax)
    found = gptq(
        weight,
        hessian_of(inputs),
        bits=bits,
        group_size=group_size,
        act_order=act_order,
        static_groups=static_groups or act_order,
    )
    assert found.granularity == granularity
    assert 0 <= found.codes.min() <= found.codes.max() < 2**bits
    x = inputs.reshape(-1, 48).double()
    errors = [(x @ (q.dequantize() - weight).double().T).norm() for q in (found, rtn)]
    assert errors[0] <= errors[1]


def test_an_uncorrelated_hessian_gives_rounding_to_nearest() -> None:
    weight, _ = problem(2)
    found = gptq(weight, torch.eye(48), bits=4, group_size=16)
    rtn = quantize_weight(weight, bits=4, granularity=Granularity("group", 16), ranges=zero_minmax)
    assert torch.equal(found.codes, rtn.codes)
    assert torch.equal(found.scale, rtn.scale)


def test_act_order_is_a_permutation_of_the_problem() -> None:
    """Static grids are those of the original groups whatever the order; permuting the inputs permutes the answer."""
    weight, inputs = problem(3)
    hessian = hessian_of(inputs)
    order = hessian.diagonal().argsort(descending=True)
    found = solve(weight, hessian, bits=4, group_size=None, act_order=True)
    sorted_first = solve(weight[:, order], hessian[order][:, order], bits=4, group_size=None)
    assert torch.equal(found.codes[:, order], sorted_first.codes)
    static = gptq(weight, hessian, bits=4, group_size=16, act_order=True, static_groups=True, scale_dtype=None)
    assert torch.equal(static.scale, zero_minmax(weight.reshape(-1, 16), 4)[0].view(-1, 3))


@pytest.mark.parametrize("group_size", [None, 16])
def test_dead_inputs_become_zero_and_do_not_matter(group_size: int | None) -> None:
    weight, inputs = problem(4)
    dead = torch.zeros(48, dtype=torch.bool)
    dead[[0, 5, 16, 17, 47]] = True
    inputs[:, :, dead] = 0
    found = gptq(weight, hessian_of(inputs), bits=4, group_size=group_size)
    assert (found.dequantize()[:, dead] == 0).all()
    other = torch.where(dead, weight.clamp(-0.5, 0.5), weight)
    again = gptq(other, hessian_of(inputs), bits=4, group_size=group_size)
    if group_size is not None:  # as released, the grid of a whole channel still sees the weights of dead inputs
        assert torch.equal(found.dequantize(), again.dequantize())


def test_a_dead_group_and_a_zero_row_are_exact() -> None:
    weight, inputs = problem(5)
    inputs[:, :, 16:32] = 0
    weight[3] = 0
    found = gptq(weight, hessian_of(inputs), bits=4, group_size=16).dequantize()
    assert (found[:, 16:32] == 0).all()
    assert (found[3] == 0).all()


def test_codes_belong_to_the_scale_that_is_stored() -> None:
    weight, inputs = problem(6)
    found = gptq(weight, hessian_of(inputs), bits=8, group_size=16)
    assert found.scale.dtype == torch.float16
    free = solve(weight, hessian_of(inputs), bits=8, group_size=16, scale_dtype=torch.float16)
    assert torch.equal(free.scale, found.scale.float())
    assert torch.equal(free.dequantize(), found.dequantize())
    assert gptq(weight, hessian_of(inputs), bits=8, group_size=16, scale_dtype=None).scale.dtype == torch.float32


def test_a_short_last_group_is_possible_without_a_quantized_weight() -> None:
    weight, inputs = problem(7)
    found = solve(weight, hessian_of(inputs), bits=4, group_size=20)
    assert found.scale.shape == (8, 3)
    assert found.group.bincount().tolist() == [20, 20, 8]


def test_hessian_is_the_mean_over_samples_however_they_come() -> None:
    _, inputs = problem(8, samples=7)
    x = inputs.double().reshape(-1, 48)
    expected = (2 / 7 * x.T @ x).float()
    for sizes in ([7], [1] * 7, [2, 4, 1]):
        accumulator = HessianAccumulator(48)
        for part in inputs.split(sizes):
            accumulator.add(part)
        assert accumulator.samples == 7
        assert torch.allclose(accumulator.hessian, expected, rtol=1e-4, atol=1e-2)
    flat = HessianAccumulator(48)
    flat.add(inputs[:, 0])
    assert torch.allclose(flat.hessian, 2 / 7 * inputs[:, 0].T @ inputs[:, 0], rtol=1e-4, atol=1e-2)


def test_threads_do_not_change_codes() -> None:
    weight, inputs = problem(9, rows=32, width=256)
    hessian = hessian_of(inputs)
    before = torch.get_num_threads()
    try:
        codes = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            codes.append(gptq(weight, hessian, bits=6, group_size=32).codes)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*codes)


def test_factor_is_that_of_the_inverse_and_damping_is_raised_when_needed() -> None:
    _, inputs = problem(10)
    hessian = hessian_of(inputs).double()
    upper = inverse_factor(hessian, 0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(48)
    assert torch.allclose(upper.T @ upper @ damped, torch.eye(48).double(), atol=1e-6)
    assert torch.equal(upper, upper.triu())
    indefinite = torch.eye(4).double() - 0.05 * torch.ones(4, 4).double() * 6  # smallest eigenvalue −0.2
    assert inverse_factor(indefinite, 0.01).isfinite().all()
    with pytest.raises(DataError, match="not positive definite even with damping 10"):
        inverse_factor(torch.diag(torch.tensor([100.0, -99.0])).double() - 60 * torch.ones(2, 2).double(), 0.01)


def test_what_cannot_be_solved_is_refused_in_one_line() -> None:
    weight, inputs = problem(11)
    hessian = hessian_of(inputs)
    with pytest.raises(ConfigError, match=r"GPTQ: group_size 20 does not divide 48; legal: \[1, 2, 3"):
        gptq(weight, hessian, bits=4, group_size=20)
    with pytest.raises(ConfigError, match="use static_groups"):
        gptq(weight, hessian, bits=4, group_size=16, act_order=True)
    with pytest.raises(ConfigError, match="weight_bits 9"):
        gptq(weight, hessian, bits=9, group_size=16)
    with pytest.raises(DataError, match="NaN or infinite"):
        gptq(weight, hessian * torch.nan, bits=4, group_size=16)
    with pytest.raises(DataError, match="the Hessian is zero"):
        gptq(weight, torch.zeros(48, 48), bits=4, group_size=16)
    with pytest.raises(DataError, match=r"must be \(48, 48\)"):
        gptq(weight, torch.eye(47), bits=4, group_size=16)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        gptq(weight * torch.inf, hessian, bits=4, group_size=16)
    with pytest.raises(CheckpointError, match="cannot be stored as float16"):
        gptq(weight * 1e9, hessian, bits=4, group_size=16)
