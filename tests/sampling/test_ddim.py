"""DDIM against diffusers' scheduler on the same betas, and against cases with a known answer."""

import numpy as np
import pytest
import torch

from qdit.sampling.samplers import ddim_step, sample, trajectory
from qdit.sampling.schedule import respaced
from tests.lazy import LazyModule

diffusers = LazyModule("diffusers")


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_whole_trajectory_equals_diffusers(toy, noise, steps: int) -> None:
    schedule = respaced(steps)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=schedule.betas,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    expected, x = [noise], noise
    for index in scheduler.timesteps:
        timestep = torch.full((len(x),), int(schedule.timesteps[index]))
        x = scheduler.step(toy(x, timestep)[:, :2], index, x).prev_sample
        expected.append(x)
    ours = [x for _, x in trajectory(toy, noise, schedule)]
    assert len(ours) == steps + 1
    for found, wanted in zip(ours, expected, strict=True):
        assert (found - wanted).norm() / wanted.norm() < 1e-5
    assert torch.equal(sample(toy, noise, schedule), ours[-1])


def test_the_model_sees_the_original_timesteps_from_the_noisy_end(noise) -> None:
    seen = []

    def denoise(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert timestep.shape == (6,) and len(set(timestep.tolist())) == 1
        seen.append(int(timestep[0]))
        return torch.zeros(6, 4, 4, 4)

    steps = [step for step, _ in trajectory(denoise, noise, respaced(20))]
    assert seen == respaced(20).timesteps[::-1].tolist()
    assert steps == [*range(19, -1, -1), -1]


def test_a_perfect_prediction_of_the_noise_recovers_the_image(noise) -> None:
    schedule = respaced(20)
    image = torch.linspace(-1, 1, 192).reshape(6, 2, 4, 4)
    bar = {int(t): float(b) for t, b in zip(schedule.timesteps, schedule.alphas_cumprod, strict=True)}

    def oracle(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        level = bar[int(timestep[0])]
        eps = (x - level**0.5 * image) / (1 - level) ** 0.5
        return torch.cat([eps, torch.full_like(eps, torch.nan)], dim=1)

    start = schedule.alphas_cumprod[-1] ** 0.5 * image + (1 - schedule.alphas_cumprod[-1]) ** 0.5 * noise
    for step, x in trajectory(oracle, start.float(), schedule):
        if step >= 0:
            level = schedule.alphas_cumprod[step]
            torch.testing.assert_close(x, (level**0.5 * image + (1 - level) ** 0.5 * noise).float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(x, image, rtol=0, atol=1e-4)


def test_variance_channels_are_ignored(toy, noise) -> None:
    def without(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.cat([toy(x, timestep)[:, :2], torch.full_like(x, torch.nan)], dim=1)

    assert torch.equal(sample(without, noise, respaced(10)), sample(toy, noise, respaced(10)))


def test_one_step_in_float64() -> None:
    schedule = respaced(50)
    x, eps = torch.tensor([[[[0.3, -1.2]]]], dtype=torch.float64), torch.tensor([[[[0.5, 0.1]]]], dtype=torch.float64)
    for step in (0, 1, 30, 49):
        bar = np.prod(1 - schedule.betas[: step + 1])
        previous = np.prod(1 - schedule.betas[:step])
        x0 = (x.numpy() - np.sqrt(1 - bar) * eps.numpy()) / np.sqrt(bar)
        expected = np.sqrt(previous) * x0 + np.sqrt(1 - previous) * eps.numpy()
        np.testing.assert_allclose(ddim_step(x, eps, schedule, step).numpy(), expected, rtol=1e-9)


class Shrinking:
    """A correction that records its steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def apply(self, eps: torch.Tensor, step: int) -> torch.Tensor:
        self.steps.append(step)
        return eps * (1 - 0.01 * step)

    def variance(self, step: int) -> float:
        raise AssertionError("DDIM has no variance")


def test_correction_is_applied_to_the_noise_at_every_step(toy, noise) -> None:
    def corrected(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        step = respaced(10).timesteps.tolist().index(int(timestep[0]))
        output = toy(x, timestep)
        return torch.cat([output[:, :2] * (1 - 0.01 * step), output[:, 2:]], dim=1)

    correction = Shrinking()
    found = sample(toy, noise, respaced(10), correction=correction)
    assert correction.steps == list(range(9, -1, -1))
    torch.testing.assert_close(found, sample(corrected, noise, respaced(10)))
    assert not torch.allclose(found, sample(toy, noise, respaced(10)), atol=1e-3)


def test_the_input_is_not_changed(toy, noise) -> None:
    before = noise.clone()
    sample(toy, noise, respaced(3))
    assert torch.equal(noise, before)
