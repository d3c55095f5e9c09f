"""PTQD's correction: the regression recovers a known error, and what is saved is what is loaded."""

import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError
from qdit.quant.correction import NoiseCorrection, fit_correction


def predictions(slope, bias, deviation, *, count=200, side=16):
    """ε of two channels, and ε plus slope · ε plus a bias per channel plus Gaussian noise."""
    draw = torch.Generator().manual_seed(0)
    full = torch.randn(count, 2, side, side, generator=draw) * 0.9 + 0.2
    noise = deviation * torch.randn(full.shape, generator=draw)
    return full, full + slope * full + torch.tensor(bias)[:, None, None] + noise


@pytest.mark.parametrize("slope", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("deviation", [0.01, 0.3])
def test_slope_bias_and_residual_of_a_gaussian_error_are_recovered(slope, deviation):
    result = fit_correction(*predictions(slope, [0.1, 0.1], deviation))
    assert float(result[0]) == pytest.approx(slope, abs=0.005)
    assert result[1].tolist() == pytest.approx([0.1, 0.1], abs=0.005)
    assert float(result[2]) == pytest.approx((deviation / (1 + slope)) ** 2, rel=0.02)


def test_channels_have_biases_of_their_own():
    _, bias, residual = fit_correction(*predictions(0.1, [0.5, -0.3], 0.1))
    assert bias.shape == (2,) and residual.shape == ()
    assert bias.tolist() == pytest.approx([0.5, -0.3], abs=0.005)
    assert float(residual) == pytest.approx((0.1 / 1.1) ** 2, rel=0.05)


def test_the_corrected_prediction_is_the_full_precision_one_but_for_the_residual():
    full, own = predictions(0.3, [0.5, -0.3], 0.1)
    slope, bias, residual = fit_correction(full, own)
    correction = NoiseCorrection(slope=slope[None], bias=bias[None], residual=residual[None])
    left = correction.apply(own, 0) - full
    assert left.mean().abs() < 1e-3
    assert (left * (full - full.mean())).mean().abs() < 1e-3, "what is left has nothing to do with ε"
    assert float(left.var()) == pytest.approx(correction.variance(0), rel=0.05)
    assert left.square().mean() < 0.05 * (own - full).square().mean()


def test_negative_slopes_count_as_none():
    slope, bias, residual = fit_correction(*predictions(-0.3, [0.1, 0.1], 0.05))
    assert slope == 0 and residual > 0
    assert bias.tolist() == pytest.approx([0.1 - 0.3 * 0.2] * 2, abs=0.01)


def test_an_exact_model_needs_no_correction():
    full, _ = predictions(0, [0.0, 0.0], 0)
    slope, bias, residual = fit_correction(full, full)
    assert slope == 0 and (bias == 0).all() and residual == 0


@pytest.mark.parametrize("slope", [-0.9, 0.0, 3.0])
@pytest.mark.parametrize("deviation", [0.0, 1e-6, 10.0])
def test_variances_are_never_negative(slope, deviation):
    assert fit_correction(*predictions(slope, [1.0, -1.0], deviation, count=5, side=4))[2] >= 0


def example(steps=3):
    draw = torch.Generator().manual_seed(1)
    slope, bias, residual = (torch.rand(shape, generator=draw) for shape in ((steps,), (steps, 4), (steps,)))
    return NoiseCorrection(slope=slope, bias=bias, residual=residual)


def test_every_step_has_parameters_of_its_own():
    correction = example()
    eps = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    for step in range(3):
        expected = torch.stack(
            [(eps[:, c] - correction.bias[step, c]) / (1 + correction.slope[step]) for c in range(4)], dim=1
        )
        torch.testing.assert_close(correction.apply(eps, step), expected)
        assert correction.variance(step) == pytest.approx(float(correction.residual[step]))
    assert correction.apply(eps.double(), 0).dtype == torch.float64


def test_spec_and_tensors_give_the_same_correction_and_are_taken_out():
    correction = example()
    tensors = {**correction.tensors(), "other": torch.zeros(1)}
    again = NoiseCorrection.take(correction.spec(), tensors)
    assert set(tensors) == {"other"}
    for name in ("slope", "bias", "residual"):
        assert torch.equal(getattr(again, name), getattr(correction, name))
    assert again.spec() == correction.spec()


def test_a_checkpoint_without_correction_has_none():
    tensors = {"other": torch.zeros(1)}
    assert NoiseCorrection.take(None, tensors) is None and set(tensors) == {"other"}


def test_damaged_corrections_are_refused():
    correction = example()
    with pytest.raises(CheckpointError, match="correction kind 'magic': allowed is noise"):
        NoiseCorrection.take({"kind": "magic"}, correction.tensors())
    with pytest.raises(CheckpointError, match="do not have the 4 steps"):
        NoiseCorrection.take({"kind": "noise", "steps": 4}, correction.tensors())


def test_another_number_of_steps_is_refused():
    correction = example()
    correction.check(3)
    with pytest.raises(ConfigError, match=r"made for 3 steps, sampling has 5.*sample with 3 steps"):
        correction.check(5)


def test_velocities_of_clips_are_corrected_like_noise():
    """Frames as rows of an image: the same figures, and the same correction."""
    full, own = predictions(0.3, [0.5, -0.3], 0.1)
    clips = (full.unflatten(2, (4, 4)), own.unflatten(2, (4, 4)))
    for result, expected in zip(fit_correction(*clips), fit_correction(full, own), strict=True):
        torch.testing.assert_close(result, expected)
    slope, bias, residual = fit_correction(full, own)
    correction = NoiseCorrection(slope=slope[None], bias=bias[None], residual=residual[None])
    torch.testing.assert_close(correction.apply(clips[1], 0), correction.apply(own, 0).unflatten(2, (4, 4)))
