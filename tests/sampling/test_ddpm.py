"""DDPM with learned-range variance against an independent float64 computation and its known limits."""

import numpy as np
import pytest
import torch

from qdit.sampling.samplers import ddpm_step, sample
from qdit.sampling.schedule import respaced

SCHEDULE = respaced(50)


def reference_step(
    x: np.ndarray, eps: np.ndarray, v: np.ndarray, step: int, z: np.ndarray, own: float = 0.0
) -> np.ndarray:
    """From the betas alone: q(x_{i−1} | x_i, x̂_0) by Bayes' rule, variance interpolated in the logarithm."""
    beta = SCHEDULE.betas[step]
    bar, previous = np.prod(1 - SCHEDULE.betas[: step + 1]), np.prod(1 - SCHEDULE.betas[:step])
    x0 = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
    if step == 0:
        return x0
    variance = 1 / ((1 - beta) / beta + 1 / (1 - previous))
    mean = variance * (np.sqrt(1 - beta) / beta * x + np.sqrt(previous) / (1 - previous) * x0)
    slope = variance * np.sqrt(previous) / (1 - previous) * np.sqrt((1 - bar) / bar)
    learned = beta ** ((v + 1) / 2) * variance ** ((1 - v) / 2)
    return mean + np.sqrt(np.maximum(learned - slope**2 * own, 0)) * z


def arrays(*names: str) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(len(names))
    return [torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=draw) for _ in names]


@pytest.mark.parametrize("step", [0, 1, 2, 25, 49])
@pytest.mark.parametrize("own", [0.0, 1e-3, 10.0])
def test_step_equals_an_independent_computation(step: int, own: float) -> None:
    x, eps, v, z = arrays("x", "eps", "v", "z")
    found = ddpm_step(x, eps, v, SCHEDULE, step, z, own)
    expected = reference_step(x.numpy(), eps.numpy(), v.numpy(), step, z.numpy(), own)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def noise_factor(v: float, step: int, own: float = 0.0) -> float:
    """Standard deviation that a step adds, measured from two noises."""
    x, eps = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    fraction = torch.full_like(x, v)
    with_noise = ddpm_step(x, eps, fraction, SCHEDULE, step, torch.ones_like(x), own)
    return float(with_noise - ddpm_step(x, eps, fraction, SCHEDULE, step, torch.zeros_like(x), own))


@pytest.mark.parametrize("step", [1, 2, 10, 49])
def test_variance_runs_from_the_lower_to_the_upper_bound(step: int) -> None:
    low, high = SCHEDULE.posterior_variance[step], SCHEDULE.betas[step]
    assert np.isclose(noise_factor(-1, step) ** 2, low, rtol=1e-7)
    assert np.isclose(noise_factor(1, step) ** 2, high, rtol=1e-7)
    between = [noise_factor(v, step) ** 2 for v in (-0.9, -0.5, 0, 0.5, 0.9)]
    assert low < between[0] and between == sorted(between) and between[-1] < high
    assert np.isclose(between[2], np.sqrt(low * high), rtol=1e-7)


def test_the_last_step_adds_no_noise() -> None:
    assert noise_factor(1, 0) == 0
    x, eps, v, z = arrays("x", "eps", "v", "z")
    bar = float(SCHEDULE.alphas_cumprod[0])
    torch.testing.assert_close(ddpm_step(x, eps, v, SCHEDULE, 0, z), (x - (1 - bar) ** 0.5 * eps) / bar**0.5)


def test_own_error_reduces_the_variance_down_to_zero() -> None:
    assert 0 < noise_factor(0, 25, own=1e-3) < noise_factor(0, 25)
    assert noise_factor(0, 25, own=100.0) == 0


def test_unit_gaussian_data_stay_unit_gaussian() -> None:
    """For x_0 ~ N(0, 1) the best ε is √(1−ᾱ) x and the reverse variance is β: each step maps N(0, 1) to itself."""
    x, z = arrays("x", "z")
    for step in (1, 20, 49):
        beta, bar = SCHEDULE.betas[step], SCHEDULE.alphas_cumprod[step]
        found = ddpm_step(x, (1 - bar) ** 0.5 * x, torch.ones_like(x), SCHEDULE, step, z)
        torch.testing.assert_close(found, (1 - beta) ** 0.5 * x + beta**0.5 * z, rtol=1e-7, atol=1e-7)


def test_sampling_uses_variance_channels_and_the_noise_of_each_step(toy, noise) -> None:
    draws = {step: torch.randn(noise.shape, generator=torch.Generator().manual_seed(step)) for step in range(50)}
    asked: list[int] = []

    def step_noise(step: int) -> torch.Tensor:
        asked.append(step)
        return draws[step]

    found = sample(toy, noise, SCHEDULE, step_noise=step_noise)
    assert [step for step in asked if step > 0] == list(range(49, 0, -1))
    x = noise.double().numpy()
    for step in reversed(range(50)):
        timestep = torch.full((6,), int(SCHEDULE.timesteps[step]))
        output = toy(torch.from_numpy(x), timestep).numpy()
        x = reference_step(x, output[:, :2], output[:, 2:], step, draws[step].double().numpy())
    np.testing.assert_allclose(found.numpy(), x, rtol=1e-3, atol=1e-3)


def test_a_corrections_variance_is_taken_out(toy, noise) -> None:
    class Correction:
        def apply(self, eps: torch.Tensor, step: int) -> torch.Tensor:
            return eps

        def variance(self, step: int) -> float:
            return 1e9

    def loud(step: int) -> torch.Tensor:
        return torch.full_like(noise, 1e3)

    quiet = sample(toy, noise, SCHEDULE, step_noise=loud, correction=Correction())
    silent = sample(toy, noise, SCHEDULE, step_noise=torch.zeros_like(noise).mul)
    torch.testing.assert_close(quiet, silent)
