"""The samplers DDIM (η = 0) and DDPM with learned-range variance, written like the equations.

Tables are float64. Images keep the model's dtype. A sampler is a generator that yields every x_t of the trajectory. So
calibration can read every x_t with the same code that samples.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol as Interface

import torch
from torch import Tensor

from qdit.core.failure import method_code
from qdit.sampling.guidance import Denoiser
from qdit.sampling.schedule import Schedule

StepNoise = Callable[[int], Tensor]
"""Step index → standard normal noise of the shape of x."""


class Correction(Interface):
    """Interface of a correction of the predicted noise after guidance (PTQD). `step` is an index of the schedule."""

    def apply(self, eps: Tensor, step: int) -> Tensor: ...

    def variance(self, step: int) -> float: ...


def predicted_noise(output: Tensor, correction: Correction | None, step: int) -> Tensor:
    """The noise ε in a model output (N, 2C, L, L), after the correction."""
    eps = output[:, : output.shape[1] // 2]
    if correction is None:
        return eps
    with method_code():
        return correction.apply(eps, step)


def ddim_step(x: Tensor, eps: Tensor, schedule: Schedule, step: int) -> Tensor:
    """One DDIM step: x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1 − ᾱ_{t−1}) ε (Song et al. 2021, η = 0)."""
    bar, previous = schedule.alphas_cumprod[step], schedule.alphas_cumprod_previous[step]
    x0 = (x - float(1 - bar) ** 0.5 * eps) / float(bar) ** 0.5
    return float(previous) ** 0.5 * x0 + float(1 - previous) ** 0.5 * eps


def ddpm_step(
    x: Tensor,
    eps: Tensor,
    variance_fraction: Tensor,
    schedule: Schedule,
    step: int,
    noise: Tensor,
    noise_variance: float = 0.0,
) -> Tensor:
    """One DDPM step with log σ² = f log β + (1 − f) log β̃, f = (v + 1)/2 (Nichol & Dhariwal 2021, Eq. 15).

    `variance_fraction` is v. `noise_variance` is the variance of a quantized model's own error in ε. It is subtracted
    from σ² (PTQD): σ'² = max(0, σ² − c² noise_variance). c is the coefficient of ε in the posterior mean.
    """
    bar = float(schedule.alphas_cumprod[step])
    of_x0, of_x = (float(table[step]) for table in schedule.posterior_mean_coefficients)
    x0 = (x - (1 - bar) ** 0.5 * eps) / bar**0.5
    mean = of_x0 * x0 + of_x * x
    if step == 0:
        return mean
    fraction = (variance_fraction + 1) / 2
    low, high = schedule.posterior_log_variance_clipped[step], torch.log(torch.tensor(schedule.betas[step]))
    variance = torch.exp(fraction * float(high) + (1 - fraction) * float(low))
    coefficient = of_x0 * (1 - bar) ** 0.5 / bar**0.5
    return mean + (variance - coefficient**2 * noise_variance).clamp(min=0).sqrt() * noise


def trajectory(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    *,
    step_noise: StepNoise | None = None,
    correction: Correction | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, x_t) from the noisy end down to step 0, then (−1, x_0). x (N, C, L, L) is the start noise.

    The sampler is DDPM if `step_noise` is given, else DDIM.
    """
    for step in reversed(range(schedule.steps)):
        yield step, x
        timestep = torch.full((len(x),), int(schedule.timesteps[step]), device=x.device)
        output = denoise(x, timestep)
        eps = predicted_noise(output, correction, step)
        if step_noise is None:
            x = ddim_step(x, eps, schedule, step)
        else:
            with method_code():
                noise_variance = 0.0 if correction is None else correction.variance(step)
            x = ddpm_step(x, eps, output[:, eps.shape[1] :], schedule, step, step_noise(step), noise_variance)
    yield -1, x


def sample(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    *,
    step_noise: StepNoise | None = None,
    correction: Correction | None = None,
) -> Tensor:
    """Sample images x_0 (N, C, L, L): the data at the end of the trajectory."""
    steps = trajectory(denoise, x, schedule, step_noise=step_noise, correction=correction)
    _, x0 = deque(steps, maxlen=1)[0]
    return x0
