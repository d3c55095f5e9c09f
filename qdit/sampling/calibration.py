"""Calibration sets: noisy images or clips, timesteps and labels or texts, from the full-precision model's trajectories.

`trajectory` is Q-DiT's collection: each image is recorded at a step of its own, distinct within a batch of 16,
conditional half only. The others follow the protocol's sampler and hold, under guidance, unconditional copies as well:
`ndtc` is PTQ4DM's normally distributed timesteps (with correct (x_t, t) pairs), `ndtc-wide` the same with the defaults
of its code, `uniform` draws one step per image (RepQ-ViT's images, spread over time), and `per-step` records every
image at every step (PTQ4DiT, TFMQ-DM, TQ-DiT, Q-Diffusion, PTQD), of which methods take the part they need.

Trajectories run side by side, as many as `together` says: a number that depends on the model alone, since samples of
another batch differ in rounding.

A video model is sampled by its rectified flow whatever the kind, its prompts take the place of labels, and
unconditional copies hold the tokens that stand for no text under the prompt's own mask.
"""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.seeds import Purpose, generator, normal
from qdit.models.dit import DiT
from qdit.models.loading import load_model
from qdit.models.network import Network
from qdit.models.stdit3 import STDiT3
from qdit.models.text_embeddings import TextEmbeddings, load_embeddings
from qdit.quant.sites import prepare_inference
from qdit.sampling.calibration_set import (
    KINDS,
    AnyProtocol,
    CalibrationSet,
    load_calibration,
    noise_shape,
    save_calibration,
    schedule_of,
    with_unconditional,
)
from qdit.sampling.guidance import denoiser
from qdit.sampling.precision import device_of, round_linears, torch_device
from qdit.sampling.protocol import Protocol
from qdit.sampling.rectified_flow import FlowProtocol, flow_trajectory, guided_velocity
from qdit.sampling.samplers import trajectory
from qdit.sampling.schedule import respaced

__all__ = [
    "KINDS",
    "NORMAL",
    "CalibrationSet",
    "calibrate_weights_file",
    "chosen_steps",
    "collect",
    "load_calibration",
    "predictor",
    "save_calibration",
    "with_unconditional",
]

TRAJECTORY_BATCH = 16
ELEMENTS = 1 << 24
"""Elements of the tokens of all trajectories that run side by side: 56 images of DiT-XL/2 at 256×256, 14 at 512×512, 2
clips of STDiT3 at 51×240×426.
"""
NORMAL = {"ndtc": (0.4, 0.4), "ndtc-wide": (0.5, 0.35)}
"""Mean and deviation as fractions of the number of steps: PTQ4DM's script, and the defaults of its code."""

Text = tuple[Tensor, Tensor]
"""Tokens (N, L, text_width) and their mask (N, L), of N prompts."""


def chosen_steps(kind: str, samples: int, steps: int, seed: int) -> np.ndarray:
    """Step index (0 = least noisy) at which each sample is recorded, (samples,)."""
    if kind == "trajectory":
        size = min(TRAJECTORY_BATCH, steps)
        batches = [
            generator(seed, Purpose.CALIBRATION_STEP, batch).permutation(steps)[:size]
            for batch in range(-(-samples // size))
        ]
        return np.concatenate(batches)[:samples]
    if kind in NORMAL:
        mean, deviation = NORMAL[kind]
        draw = generator(seed, Purpose.CALIBRATION_STEP).normal(mean * steps, deviation * steps, samples)
        return np.clip(draw.astype(np.int64), 0, steps - 1)
    if kind == "uniform":
        return generator(seed, Purpose.CALIBRATION_STEP).integers(steps, size=samples)
    if kind == "per-step":
        return np.full(samples, -1)
    raise ConfigError(f"calibration kind {kind!r}: allowed are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


def collect(
    model: Network, kind: str, protocol: AnyProtocol, *, samples: int, text: Text | None = None
) -> CalibrationSet:
    """Record noisy images or clips of the model's own trajectories (with the protocol's steps and guidance).

    `samples` is their number; in a `per-step` set all steps share them equally (rounded up). Trajectories follow the
    protocol's sampler, except that those of `trajectory` are always DDIM's, as in Q-DiT's script. A video model takes
    its prompts in turn from `text`, which needs one at least.
    """
    if samples < 1:
        raise ConfigError(f"calibration samples {samples}: must be at least 1")
    samples = trajectories(kind, samples, protocol)
    chosen = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, protocol.seed))
    asked, schedule = draw_conditions(model, protocol, samples, text), schedule_of(protocol)
    found_x, step, index = record(model, kind, protocol, asked, chosen)
    order = index.argsort() if kind != "per-step" else step.argsort(descending=True, stable=True)
    found_x, step, index = found_x[order], step[order], index[order]
    nowhere = torch.zeros(len(index), dtype=torch.bool)
    own = tuple(part[index] for part in asked)
    found = CalibrationSet(kind, found_x.clone(), schedule[step], own, nowhere, protocol)
    guided = kind != "trajectory" and protocol.guided
    return with_unconditional(found, null_conditions(model, own)) if guided else found


def trajectories(kind: str, samples: int, protocol: AnyProtocol) -> int:
    """How many trajectories give `samples` samples: in a `per-step` set each gives one at every step."""
    return -(-samples // protocol.steps) if kind == "per-step" else samples


def together(model: Network, protocol: AnyProtocol) -> int:
    """How many trajectories run side by side."""
    if isinstance(model, DiT):
        tokens = model.config.tokens
    else:
        tokens = prod(model.grid(torch.Size(noise_shape(model.config, protocol)[1:])))
    return max(1, ELEMENTS // (tokens * model.config.hidden_size))


def record(
    model: Network, kind: str, protocol: AnyProtocol, conditions: tuple[Tensor, ...], chosen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, C, …), step (N,) and sample (N,) of what is recorded, on the CPU, batch after batch.

    `chosen` (samples,) is the step at which each is recorded, −1 for every step.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for samples in torch.arange(len(chosen)).split(together(model, protocol)):
            own = tuple(part[samples] for part in conditions)
            for now, x in own_trajectory(model, kind, protocol, own, samples):
                if now < 0:
                    break  # x_0 itself, where no model is evaluated
                rows = (chosen[samples] == now) | (chosen[samples] < 0)
                index = samples[rows]
                parts.append((x[rows.to(x.device)].float().cpu(), torch.full_like(index, now), index))
    found_x, step, index = (torch.cat(column) for column in zip(*parts, strict=True))
    return found_x, step, index


def draw_conditions(model: Network, protocol: AnyProtocol, samples: int, text: Text | None) -> tuple[Tensor, ...]:
    """What `samples` trajectories are asked for: random labels, or the given prompts in turn."""
    if isinstance(model, DiT) != isinstance(protocol, Protocol):
        raise ConfigError(
            f"calibration: a {type(model).__name__} cannot follow a {type(protocol).__name__}; give a Protocol for an"
            " image model (qdit calibrate), a FlowProtocol for a video model (qdit video calibrate)"
        )
    if isinstance(model, DiT):
        draw = generator(protocol.seed, Purpose.CALIBRATION_LABEL)
        return (torch.from_numpy(draw.integers(model.config.num_classes, size=samples)),)
    if text is None or len(text[0]) == 0:
        raise ConfigError("calibration of a video model: found no prompts, needs the text of at least one")
    if (width := text[0].shape[2]) != model.config.text_width:
        raise ConfigError(
            f"calibration: texts are {width} wide, the model takes {model.config.text_width}; give the tokens of its"
            " own text encoder (--text-embeddings), or none for a model of the mini video world"
        )
    rows = torch.arange(samples) % len(text[0])
    return text[0][rows], text[1][rows].bool()


def predictor(
    model: Network, conditions: tuple[Tensor, ...], protocol: AnyProtocol
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, timestep) → what the sampler is given, after guidance: noise and variance of images, velocity of clips."""
    if isinstance(model, DiT):
        assert isinstance(protocol, Protocol)
        return denoiser(model, conditions[0], protocol.cfg_scale, dtype=protocol.dtype)
    assert isinstance(protocol, FlowProtocol)
    return guided_velocity(model, conditions[0], conditions[1], protocol)


def own_trajectory(
    model: Network, kind: str, protocol: AnyProtocol, conditions: tuple[Tensor, ...], samples: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """(step, x_t) of the full-precision model from the calibration noise of these samples on, where the model is."""
    seed, device = protocol.seed, device_of(model)
    shape = noise_shape(model.config, protocol)
    predict = predictor(model, tuple(part.to(device) for part in conditions), protocol)
    noise = calibration_noise(shape, seed, samples).to(device)
    if isinstance(protocol, FlowProtocol):
        return flow_trajectory(predict, noise, protocol.timesteps)
    ancestral = kind != "trajectory" and protocol.sampler == "ddpm"
    return trajectory(
        predict,
        noise,
        respaced(protocol.steps),
        step_noise=(lambda step: calibration_noise(shape, seed, samples, step).to(device)) if ancestral else None,
    )


def calibration_noise(shape: tuple[int, ...], seed: int, samples: Tensor, step: int | None = None) -> Tensor:
    """(N, *shape) start noise of the calibration images with these numbers, or the noise of one ancestral step."""
    extra = () if step is None else (1 + step,)
    return torch.stack([normal(shape, seed, Purpose.CALIBRATION_NOISE, int(i), *extra) for i in samples])


def null_conditions(model: Network, conditions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Conditions of the unconditional branch, as many: the null class, or no text under the prompts' masks."""
    if isinstance(model, DiT):
        return (torch.full_like(conditions[0], model.config.null_class),)
    return model.null_text(*conditions[0].shape[:2]).detach().cpu(), conditions[1]


def spread_prompts(embeddings: TextEmbeddings, count: int) -> Text:
    """Tokens and mask of `count` prompts, or all, evenly spaced: suites list the prompts of one dimension together."""
    chosen = np.linspace(0, len(embeddings.prompts) - 1, min(count, len(embeddings.prompts))).round().astype(int)
    return embeddings.batch([embeddings.prompts[index] for index in chosen])


def calibrate_weights_file(
    weights: Path,
    out: Path,
    kind: str,
    protocol: AnyProtocol,
    *,
    samples: int,
    text: Text | None = None,
    embeddings: Path | None = None,
    device: str = "cpu",
) -> None:
    """The step weights → calibration set, computed on `device` (`cpu` or `cuda:N`).

    A video model takes its prompts in turn from `text`, or from a file of `embeddings`, spread over it.
    """
    model = load_model(weights)
    if embeddings is not None and isinstance(model, STDiT3):
        own = load_embeddings(embeddings, width=model.config.text_width, most=model.config.text_tokens)
        text = spread_prompts(own, trajectories(kind, samples, protocol))
    model = prepare_inference(round_linears(model.to(torch_device(device)), protocol.dtype))
    save_calibration(out, collect(model, kind, protocol, samples=samples, text=text), protocol)
