"""Smoothing factors: the closed form, and the choice of α on a layer with outliers."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.rotation import block
from baselines.svdquant import with_branch
from baselines.vidit_q import MOMENTUM, running_maxima
from qdit.core.errors import CheckpointError, Unsupported
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.observe import observe_inputs
from qdit.quant.smoothing import best_factor, complementary, inputs_only, smoothing_factor, some_rows
from qdit.quant.trial import Trial
from tests.small_models import calibration_set, random_dit

GRID = [None, *inputs_only(10), *complementary(10)]


@given(alpha=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_factor_is_the_equations_up_to_a_common_number(alpha, seed):
    generator = torch.Generator().manual_seed(seed)
    of_inputs, of_weight = (torch.rand(16, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    factor = smoothing_factor(of_inputs, of_weight, alpha)
    ratio = factor / (of_inputs**alpha / of_weight ** (1 - alpha))
    assert torch.allclose(ratio, ratio[0].expand(16), rtol=1e-12)
    assert float(factor.log().mean()) == pytest.approx(0, abs=1e-12)


def test_a_channel_that_is_always_zero_keeps_factor_one():
    of_inputs, of_weight = torch.tensor([0.0, 4.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0, 8.0])
    factor = smoothing_factor(of_inputs, of_weight, 0.5)
    assert factor[0] == factor[2] == 1 and torch.isfinite(factor).all()
    assert float(factor[1] / factor[3]) == pytest.approx(2 / 0.5, rel=1e-6)


def layer(outlier):
    generator = torch.Generator().manual_seed(3)
    inputs, weight = torch.randn(64, 16, generator=generator), torch.randn(24, 16, generator=generator)
    inputs[:, 5] *= outlier
    return inputs, weight


def test_the_chosen_factor_is_never_worse_than_none_and_helps_where_inputs_have_outliers():
    output = partial(with_branch, layer=Trial(4, 4, 8), rank=2)

    def error(inputs, weight, factor):
        return float((output(inputs / factor, weight * factor) - inputs @ weight.t()).square().sum())

    for outlier in (1, 50):
        inputs, weight = layer(outlier)
        factor, _ = best_factor(inputs, weight, output, grid=GRID)
        assert error(inputs, weight, factor) <= error(inputs, weight, torch.ones(16))
    factor, exponents = best_factor(*layer(50), output, grid=GRID)
    assert exponents is not None and factor[5] == factor.max()
    assert error(*layer(50), factor) < 0.5 * error(*layer(50), torch.ones(16))


def test_the_branch_takes_what_a_low_rank_weight_has():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 16, generator=generator)
    weight = torch.randn(24, 2, generator=generator) @ torch.randn(2, 16, generator=generator)
    near = with_branch(inputs, weight, layer=Trial(4, 16, 8), rank=2)
    assert torch.allclose(near, inputs @ weight.t(), atol=2e-2)
    far = with_branch(inputs, weight, layer=Trial(4, 16, 8), rank=1)
    assert (far - inputs @ weight.t()).norm() > 5 * (near - inputs @ weight.t()).norm()


def test_rows_see_every_token():
    tokens = torch.arange(4096) % 16
    rows = some_rows(tokens[:, None].float().expand(-1, 3), 1024)
    assert rows.shape == (1024, 3) and rows[:, 0].unique().numel() == 16
    assert rows.equal(some_rows(tokens[:, None].float().expand(-1, 3), 1024))
    assert some_rows(rows, 2000) is rows


def test_saliences_are_those_of_all_inputs():
    """An outlier in one token of one sample counts, whichever rows the errors are of."""
    inputs, weight = layer(1)
    inputs = inputs.repeat(64, 1)
    inputs[7, 5] = 300.0
    salience = inputs.abs().amax(dim=0)
    expected = smoothing_factor(salience, weight.abs().amax(dim=0), 0.9, 0.0)
    forced, exponents = best_factor(
        some_rows(inputs, 64), weight, lambda x, w: x @ w.t(), grid=[(0.9, 0.0)], of_inputs=salience
    )
    assert exponents == (0.9, 0.0) and torch.equal(forced, expected)


def test_a_candidate_that_cannot_be_stored_is_passed_over():
    inputs, weight = layer(50)

    def output(x, w):
        if float(w.abs().max()) > float(weight.abs().max()):
            raise CheckpointError("too large")
        return x @ w.t()

    factor, exponents = best_factor(inputs, weight, output, grid=[(1.0, 0.0), None])
    assert exponents is None and torch.equal(factor, torch.ones(16))
    with pytest.raises(CheckpointError, match="too large"):
        best_factor(inputs, weight, output, grid=[(1.0, 0.0)])


def test_grids_are_those_of_the_programs():
    """DeepCompressor: 20 steps, β 0 and 1 − α. DiTAS: 21 values of α from 0 to 1."""
    assert [alpha for alpha, _ in complementary(20)] == pytest.approx([0.05 * step for step in range(1, 20)])
    assert complementary(4) == [(0.25, 0.75), (0.5, 0.5), (0.75, 0.25)]
    assert inputs_only(4) == [(0.25, 0), (0.5, 0), (0.75, 0)]
    assert complementary(20, ends=True)[0] == (0, 1) and complementary(20, ends=True)[-1] == (1, 0)
    assert len(complementary(20, ends=True)) == 21


def test_running_maxima_are_the_recurrence_over_batches():
    """ViDiT-Q's program: the largest value over the tokens, then the mean over the samples of a batch."""
    model, data = random_dit(), calibration_set("uniform", samples=12)
    sites = select(model.sites(), roles=CORE_ROLES)[:1]
    seen = []
    observe_inputs(model, sites, data.batches(4), lambda site, x: seen.append(x.abs().amax(dim=-2).mean(dim=0)))
    expected = seen[0]
    for largest in seen[1:]:
        expected = MOMENTUM * expected + (1 - MOMENTUM) * largest
    assert len(seen) > 2
    assert torch.allclose(running_maxima(model, sites, data.batches(4))[sites[0].name], expected, rtol=1e-6)


def test_blocks_of_a_rotation_divide_the_width():
    assert [block(width, None) for width in (144, 576, 1152, 4608)] == [16, 64, 128, 512]
    assert block(144, 8) == 8
    for size in (32, 12):
        with pytest.raises(Unsupported, match=f"block_size {size}: a layer of width 144 allows powers of two up to 16"):
            block(144, size)
