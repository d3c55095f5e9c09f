"""Recording of the sampling trajectories of a run's first images, with the noise and labels of the run."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qdit.models.dit import DiT
from qdit.sampling.guidance import denoiser
from qdit.sampling.noise import initial_noise, labels, step_noise
from qdit.sampling.precision import device_of
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import Correction, StepNoise, predicted_noise, trajectory
from qdit.sampling.schedule import respaced


@dataclass(frozen=True)
class Start:
    """Inputs of the trajectories: start noise (N, C, L, L), labels (N,), and a function for DDPM's noise.

    The function is None for DDIM.
    """

    noise: Tensor
    labels: Tensor
    step_noise: StepNoise | None


@dataclass(frozen=True)
class Followed:
    """A recorded trajectory, from the noisy end: step indices and timesteps (S,), and lists of x_t and ε.

    There are S + 1 arrays x_t (N, C, L, L); the last is x_0. There are S arrays ε, after guidance and correction.
    """

    steps: tuple[int, ...]
    timesteps: tuple[int, ...]
    x: tuple[Tensor, ...]
    eps: tuple[Tensor, ...]


def start(model: DiT, protocol: Protocol, samples: int) -> Start:
    """Start noise and labels of the first `samples` images of this protocol, on the model's device."""
    images, device = range(samples), device_of(model)
    shape = (model.config.in_channels, model.config.input_size, model.config.input_size)

    def noise_of(step: int) -> Tensor:
        return step_noise(shape, protocol.seed, images, step).to(device)

    return Start(
        initial_noise(shape, protocol.seed, images).to(device),
        labels(model.config.num_classes, protocol.seed, images, protocol.labels).to(device),
        noise_of if protocol.sampler == "ddpm" else None,
    )


def follow(model: DiT, protocol: Protocol, begin: Start, correction: Correction | None = None) -> Followed:
    """Sample the images as in a run, and record every x_t and every predicted noise ε."""
    schedule, denoise = (
        respaced(protocol.steps),
        denoiser(model, begin.labels, protocol.cfg_scale, dtype=protocol.dtype),
    )
    eps: list[Tensor] = []
    states: list[tuple[int, Tensor]] = []

    def recorded(x: Tensor, timestep: Tensor) -> Tensor:
        output = denoise(x, timestep)
        eps.append(predicted_noise(output, correction, states[-1][0]))
        return output

    with torch.inference_mode():
        for step, x in trajectory(recorded, begin.noise, schedule, step_noise=begin.step_noise, correction=correction):
            states.append((step, x))
    steps = tuple(step for step, _ in states[:-1])
    timesteps = tuple(int(schedule.timesteps[step]) for step in steps)
    return Followed(steps, timesteps, tuple(x for _, x in states), tuple(eps))


def inputs_along(followed: Followed, begin: Start) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
    """Yield (position, (x_t, timestep, label)) for each step: the inputs of a conditional forward pass."""
    for index, timestep in enumerate(followed.timesteps):
        x = followed.x[index]
        yield index, (x, torch.full((len(x),), timestep, device=x.device), begin.labels)
