"""Calibration sets: noisy images or clips with timesteps and labels or texts, from full-precision trajectories.

There are seven kinds. `trajectory` is the collection of Q-DiT. Each image is recorded at one step; the steps of a batch
of 16 differ. It has the conditional branch only. All other kinds follow the sampler of the protocol. Under guidance
they also hold unconditional copies, except `regression`.

`ndtc` has the normally distributed timesteps of PTQ4DM, with correct pairs (x_t, t). `ndtc-wide` is the same with the
defaults of PTQ4DM's code. `ndtc-released` has the pairs of PTQ4DM's program: t counts from the noisy end, x is the
output of step t, and the network gets t itself. `uniform` draws one step per image (RepQ-ViT). `per-step` records every
image at every step (PTQ4DiT, TFMQ-DM, TQ-DiT, Q-Diffusion, PTQD); each method takes the samples that it needs.
`regression` also records every step, but without unconditional copies (for PTQD's fit, after guidance); its number of
samples counts images.

Several trajectories run at the same time as one batch. `together` gives their number. It depends on the model alone,
because samples of another batch size differ in rounding.

A video model uses its rectified flow for every kind. Its prompts replace the labels. Unconditional copies hold the
tokens for "no text", with the mask of the prompt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.provenance import packages
from qdit.core.seeds import Purpose, generator, normal
from qdit.models.loading import load_model
from qdit.models.network import Network
from qdit.models.weights_files import weights_sha256
from qdit.quant.sites import prepare_inference
from qdit.sampling.calibration_set import (
    KINDS,
    AnyProtocol,
    CalibrationSet,
    load_calibration,
    save_calibration,
    schedule_of,
    with_unconditional,
)
from qdit.sampling.families import family_of
from qdit.sampling.family import Predictor, Text
from qdit.sampling.precision import device_of, round_linears

__all__ = [
    "KINDS",
    "NORMAL",
    "CalibrateJob",
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
PIECES = 8
"""If each trajectory gives one sample, so many batches are computed, each up to the last step that it records."""
LEAST_TOKENS = 512
"""A batch has about as many tokens at least, because small batches are slow."""
NORMAL = {"ndtc": (0.4, 0.4), "ndtc-wide": (0.5, 0.35), "ndtc-released": (0.4, 0.4)}
"""Mean and deviation as fractions of the number of steps: PTQ4DM's script, its code's defaults, its script again."""
AT_EVERY_STEP = ("per-step", "regression")
"""Kinds that record each image at every step."""
CONDITIONAL = ("trajectory", "regression")
"""Kinds without unconditional copies."""
ALL, CLEAN = -2, -1
"""In the place of a step: every step; x_0, which no step follows."""


def chosen_steps(kind: str, samples: int, steps: int, seed: int) -> np.ndarray:
    """The step (samples,) at which each sample is recorded, as an index of the schedule: 0 is the least noisy step.

    `ALL` means every step, `CLEAN` means the final image x_0.
    """
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
        position = np.clip(draw.astype(np.int64), 0, steps - 1)
        return steps - 2 - position if kind == "ndtc-released" else position
    if kind == "uniform":
        return generator(seed, Purpose.CALIBRATION_STEP).integers(steps, size=samples)
    if kind in AT_EVERY_STEP:
        return np.full(samples, ALL)
    raise ConfigError(f"calibration kind {kind!r}: allowed are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


def collect(
    model: Network, kind: str, protocol: AnyProtocol, *, samples: int, text: Text | None = None
) -> CalibrationSet:
    """Record noisy images or clips from the model's own trajectories, and return them as a calibration set.

    `samples` is their number. In a `per-step` set all steps share them equally (rounded up). In a `regression` set each
    step has this number. Trajectories have the steps, guidance and sampler of the protocol. Only those of `trajectory`
    always use DDIM, as in Q-DiT's script. A video model takes one prompt of `text` after the other, and then begins
    again; there must be at least one.
    """
    if samples < 1:
        raise ConfigError(f"calibration samples {samples}: must be at least 1")
    samples = trajectories(kind, samples, protocol)
    recorded_steps = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, protocol.seed))
    family, schedule = family_of(model.config), schedule_of(protocol)
    drawn = family.calibration_conditions(model.config, family.require(protocol), samples, text)
    x, step, index = record(model, kind, protocol, drawn, recorded_steps)
    order = step.argsort(descending=True, stable=True) if kind in AT_EVERY_STEP else index.argsort()
    x, step, index = x[order], step[order], index[order]
    unconditional = torch.zeros(len(index), dtype=torch.bool)
    conditions = tuple(column[index] for column in drawn)
    timestep = schedule[step]
    if kind == "ndtc-released":  # the position from the noisy end, not mapped to the scale of the network
        timestep = (protocol.steps - 2 - step).to(schedule.dtype)
    recorded = CalibrationSet(kind, x.clone(), timestep, conditions, unconditional, protocol)
    guided = kind not in CONDITIONAL and protocol.guided
    return with_unconditional(recorded, family.null_conditions(model, conditions)) if guided else recorded


def trajectories(kind: str, samples: int, protocol: AnyProtocol) -> int:
    """Number of trajectories that are needed for `samples` samples.

    In a `per-step` set each trajectory gives one sample at every step.
    """
    return -(-samples // protocol.steps) if kind == "per-step" else samples


def together(model: Network, protocol: AnyProtocol) -> int:
    """Number of trajectories that run together as one batch, for a model of this size."""
    tokens = family_of(model.config).tokens(model, protocol)
    return max(1, ELEMENTS // (tokens * model.config.hidden_size))


def record(
    model: Network, kind: str, protocol: AnyProtocol, conditions: tuple[Tensor, ...], recorded_steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run trajectories and return x (N, C, …), step (N,) and trajectory number (N,) of the recorded samples.

    They are on the CPU. `recorded_steps` (trajectories,) is the step at which each trajectory is recorded. `ALL` is
    every step, `CLEAN` is x_0. Trajectories run in batches. A batch stops after the last step that it records, so those
    with equal steps run together.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    size = together(model, protocol)
    if kind not in AT_EVERY_STEP:
        least = LEAST_TOKENS // family_of(model.config).tokens(model, protocol)
        size = min(size, max(1, least, -(-len(recorded_steps) // PIECES)))
    first_to_last = recorded_steps.argsort(descending=True, stable=True)  # a trajectory ends where nothing is left
    with torch.inference_mode():
        for samples in first_to_last.split(size):
            of_batch = tuple(condition[samples] for condition in conditions)
            lowest = int(recorded_steps[samples].min())
            last = 0 if lowest == ALL else lowest
            for now, x in own_trajectory(model, kind, protocol, of_batch, samples):
                rows = (recorded_steps[samples] == now) | ((recorded_steps[samples] == ALL) & (now >= 0))
                if rows.any():
                    index = samples[rows]
                    parts.append((x[rows.to(x.device)].float().cpu(), torch.full_like(index, now), index))
                if now == last:
                    break
    found_x, step, index = (torch.cat(column) for column in zip(*parts, strict=True))
    return found_x, step, index


def own_trajectory(
    model: Network, kind: str, protocol: AnyProtocol, conditions: tuple[Tensor, ...], samples: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, x_t) along the trajectories of the full-precision model, on its device, from the noisy end.

    They start from the calibration noise of these samples.
    """
    family, seed, device = family_of(model.config), protocol.seed, device_of(model)
    shape = family.shape(model.config, protocol)
    predict = family.predictor(model, tuple(column.to(device) for column in conditions), protocol)
    noise = calibration_noise(shape, seed, samples).to(device)

    def step_noise(step: int) -> Tensor:
        return calibration_noise(shape, seed, samples, step).to(device)

    ancestral = kind != "trajectory" and protocol.ancestral
    return family.trajectory(predict, noise, protocol, step_noise=step_noise if ancestral else None)


def calibration_noise(shape: tuple[int, ...], seed: int, samples: Tensor, step: int | None = None) -> Tensor:
    """Noise (N, *shape) of the calibration samples with these numbers: their start noise, or that of a DDPM `step`."""
    extra = () if step is None else (1 + step,)
    return torch.stack([normal(shape, seed, Purpose.CALIBRATION_NOISE, int(i), *extra) for i in samples])


def predictor(model: Network, conditions: tuple[Tensor, ...], protocol: AnyProtocol) -> Predictor:
    """Function (x, timestep) → what the sampler needs, after guidance.

    For images this is noise and variance, for clips the velocity.
    """
    return family_of(model.config).predictor(model, conditions, protocol)


@dataclass(frozen=True)
class CalibrateJob:
    """Inputs of a step that records a calibration set from weights:

    `samples` of a kind, on `device` (`cpu` or `cuda:N`). A video model uses the prompts of `text` one after the other,
    or prompts evenly spaced over a file of `embeddings`.
    """

    weights: Path
    out: Path
    kind: str
    protocol: AnyProtocol
    samples: int
    text: Text | None = None
    embeddings: Path | None = None
    device: str = "cpu"


def calibrate_weights_file(job: CalibrateJob) -> None:
    """Run the job: record the calibration set and write it to its file."""
    model = load_model(job.weights)
    family, text = family_of(model.config), job.text
    if job.embeddings is not None:
        count = trajectories(job.kind, job.samples, job.protocol)
        text = family.embedded_text(model.config, job.embeddings, count)
    model = prepare_inference(round_linears(model.to(torch_device(job.device)), job.protocol.dtype))
    facts = {
        "weights_sha256": weights_sha256(job.weights),
        "code": code_digest("qdit.sampling.calibration", *family.modules),
        "packages": packages(),
    }
    save_calibration(job.out, collect(model, job.kind, job.protocol, samples=job.samples, text=text), facts)
