"""A correction in sampling: on a problem that is solved exactly, and from a checkpoint."""

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.core.files import load_arrays
from qdit.core.pixels import to_uint8
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.quant.correction import NoiseCorrection, fit_correction
from qdit.sampling.batch import sample_images
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob, sample_checkpoint
from qdit.sampling.samplers import sample
from qdit.sampling.schedule import respaced

SCHEDULE = respaced(20)
SHAPE = (3000, 1, 8, 8)
SLOPE, BIAS, DEVIATION = 0.25, 0.1, 0.9


def exact(x, timestep):
    """For x_0 ~ N(0, 1) the best ε is √(1 − ᾱ) x; with the upper variance every step maps N(0, 1) to itself."""
    step = SCHEDULE.timesteps.tolist().index(int(timestep[0]))
    eps = (1 - SCHEDULE.alphas_cumprod[step]) ** 0.5 * x
    return torch.cat([eps, torch.ones_like(eps)], dim=1)


def quantized(draw):
    """The same with an error that depends on ε, a bias and noise."""

    def denoise(x, timestep):
        eps, variance = exact(x, timestep).chunk(2, dim=1)
        noise = DEVIATION * torch.randn(x.shape, generator=draw)
        return torch.cat([(1 + SLOPE) * eps + BIAS + noise, variance], dim=1)

    return denoise


@pytest.fixture(scope="module")
def correction():
    """Fitted at every step on the exact trajectory's distribution."""
    draw, rows = torch.Generator().manual_seed(1), []
    for timestep in SCHEDULE.timesteps:
        x, time = torch.randn(500, 1, 8, 8, generator=draw), torch.full((500,), int(timestep))
        rows.append(fit_correction(exact(x, time)[:, :1], quantized(draw)(x, time)[:, :1]))
    slope, bias, residual = (torch.stack(column) for column in zip(*rows, strict=True))
    return NoiseCorrection(slope=slope, bias=bias, residual=residual)


class WithoutVariance(NoiseCorrection):
    """Corrects the prediction and leaves its noise."""

    def variance(self, step):
        return 0.0


def images(denoise, correction=None):
    draw = torch.Generator().manual_seed(2)
    start = torch.randn(SHAPE, generator=draw)
    return sample(
        denoise, start, SCHEDULE, step_noise=lambda _: torch.randn(SHAPE, generator=draw), correction=correction
    )


def test_the_exact_model_gives_the_distribution_of_the_data():
    found = images(exact)
    assert float(found.mean()) == pytest.approx(0, abs=0.01) and float(found.var()) == pytest.approx(1, abs=0.015)


def test_a_noisy_model_with_its_correction_gives_images_of_the_right_mean_and_variance(correction):
    found = images(quantized(torch.Generator().manual_seed(3)), correction)
    assert float(found.mean()) == pytest.approx(0, abs=0.02) and float(found.var()) == pytest.approx(1, abs=0.02)


def test_without_the_correction_or_its_variance_they_are_wrong(correction):
    plain = images(quantized(torch.Generator().manual_seed(3)))
    assert abs(float(plain.mean())) > 0.05
    half = WithoutVariance(slope=correction.slope, bias=correction.bias, residual=correction.residual)
    too_wide = images(quantized(torch.Generator().manual_seed(3)), half)
    assert float(too_wide.mean()) == pytest.approx(0, abs=0.02) and float(too_wide.var()) > 1.08


def test_an_error_beyond_the_samplers_own_noise_leaves_none():
    """The variance of the step is clamped at zero: what is left is the sampler without noise of its own."""
    loud = NoiseCorrection(slope=torch.zeros(20), bias=torch.zeros(20, 1), residual=torch.full((20,), 1e6))
    found = images(exact, loud)
    silent = sample(
        exact,
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)),
        SCHEDULE,
        step_noise=lambda _: torch.zeros(SHAPE),
    )
    torch.testing.assert_close(found, silent)


def shard(checkpoint, folder, protocol):
    return sample_checkpoint(SampleJob(checkpoint, folder, protocol, 2, 2, 0, 1))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_checkpoints_correction_is_used_in_sampling(dit, tmp_path, sampler):
    protocol = Protocol(sampler, steps=3, cfg_scale=1.5)
    correction = NoiseCorrection(slope=torch.full((3,), 0.3), bias=torch.full((3, 1), 0.2), residual=torch.ones(3))
    save_checkpoint(tmp_path / "checkpoint", Quantized(dit, correction), {})
    shard(tmp_path / "checkpoint", tmp_path / "samples", protocol)
    found = load_arrays(tmp_path / "samples" / "00000.npz")["images"].astype(int)
    expected, plain = (
        to_uint8(sample_images(dit, protocol, range(2), correction=c)[0]).numpy().astype(int)
        for c in (correction, None)
    )
    assert np.abs(found - expected).max() <= 1 and np.abs(found - plain).max() > 3


def test_another_number_of_steps_than_the_corrections_is_refused(dit, tmp_path):
    correction = NoiseCorrection(slope=torch.zeros(3), bias=torch.zeros(3, 1), residual=torch.zeros(3))
    save_checkpoint(tmp_path / "checkpoint", Quantized(dit, correction), {})
    with pytest.raises(ConfigError, match="made for 3 steps, sampling has 4"):
        shard(tmp_path / "checkpoint", tmp_path / "samples", Protocol(steps=4))
    assert not (tmp_path / "samples").exists()
