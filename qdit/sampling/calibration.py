"""Calibration sets: noisy images or clips, timesteps and labels or texts, from the full-precision model's trajectories.

`trajectory` is Q-DiT's collection: each image is recorded at a step of its own, distinct within a batch of 16,
conditional half only. The others follow the protocol's sampler and hold, under guidance, unconditional copies as well:
`ndtc` is PTQ4DM's normally distributed timesteps (with correct (x_t, t) pairs), `ndtc-wide` the same with the defaults
of its code, `ndtc-released` its program's pairs: it counts t from the noisy end, records what step t has made, and
gives t itself to the network. `uniform` draws one step per image (RepQ-ViT's images, spread over time), and `per-step`
records every image at every step (PTQ4DiT, TFMQ-DM, TQ-DiT, Q-Diffusion, PTQD), of which methods take what they need.
`regression` does the same without unconditional copies (PTQD's fit, after guidance); its number is that of the images.

Trajectories run side by side, as many as `together` says: a number that depends on the model alone, since samples of
another batch differ in rounding.

A video model is sampled by its rectified flow whatever the kind, its prompts take the place of labels, and
unconditional copies hold the tokens that stand for no text under the prompt's own mask.
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
NORMAL = {"ndtc": (0.4, 0.4), "ndtc-wide": (0.5, 0.35), "ndtc-released": (0.4, 0.4)}
"""Mean and deviation as fractions of the number of steps: PTQ4DM's script, its code's defaults, its script again."""
AT_EVERY_STEP = ("per-step", "regression")
"""Kinds that record each image at every step."""
CONDITIONAL = ("trajectory", "regression")
"""Kinds without unconditional copies."""
ALL, CLEAN = -2, -1
"""In the place of a step: every step; x_0, which no step follows."""


def chosen_steps(kind: str, samples: int, steps: int, seed: int) -> np.ndarray:
    """Step index (0 = least noisy) at which each sample is recorded, (samples,): `ALL` every step, `CLEAN` x_0."""
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
    """Record noisy images or clips of the model's own trajectories (with the protocol's steps and guidance).

    `samples` is their number; in a `per-step` set all steps share them equally (rounded up), in a `regression` set each
    step has as many. Trajectories follow the
    protocol's sampler, except that those of `trajectory` are always DDIM's, as in Q-DiT's script. A video model takes
    its prompts in turn from `text`, which needs one at least.
    """
    if samples < 1:
        raise ConfigError(f"calibration samples {samples}: must be at least 1")
    samples = trajectories(kind, samples, protocol)
    chosen = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, protocol.seed))
    family, schedule = family_of(model.config), schedule_of(protocol)
    drawn = family.calibration_conditions(model.config, family.require(protocol), samples, text)
    x, step, index = record(model, kind, protocol, drawn, chosen)
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
    """How many trajectories give `samples` samples: in a `per-step` set each gives one at every step."""
    return -(-samples // protocol.steps) if kind == "per-step" else samples


def together(model: Network, protocol: AnyProtocol) -> int:
    """Number of trajectories that run side by side as one batch."""
    tokens = family_of(model.config).tokens(model, protocol)
    return max(1, ELEMENTS // (tokens * model.config.hidden_size))


def record(
    model: Network, kind: str, protocol: AnyProtocol, conditions: tuple[Tensor, ...], chosen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Yield x (N, C, …), step (N,) and sample (N,) of the recorded samples, on the CPU, batch after batch.

    `chosen` (samples,) is the step at which each sample is recorded; `ALL` stands for every step, `CLEAN` for x_0.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for samples in torch.arange(len(chosen)).split(together(model, protocol)):
            of_batch = tuple(condition[samples] for condition in conditions)
            for now, x in own_trajectory(model, kind, protocol, of_batch, samples):
                rows = (chosen[samples] == now) | ((chosen[samples] == ALL) & (now >= 0))
                if not rows.any():
                    continue
                index = samples[rows]
                parts.append((x[rows.to(x.device)].float().cpu(), torch.full_like(index, now), index))
    found_x, step, index = (torch.cat(column) for column in zip(*parts, strict=True))
    return found_x, step, index


def own_trajectory(
    model: Network, kind: str, protocol: AnyProtocol, conditions: tuple[Tensor, ...], samples: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """(step, x_t) of the full-precision model from the calibration noise of these samples on, where the model is."""
    family, seed, device = family_of(model.config), protocol.seed, device_of(model)
    shape = family.shape(model.config, protocol)
    predict = family.predictor(model, tuple(column.to(device) for column in conditions), protocol)
    noise = calibration_noise(shape, seed, samples).to(device)

    def step_noise(step: int) -> Tensor:
        return calibration_noise(shape, seed, samples, step).to(device)

    ancestral = kind != "trajectory" and protocol.ancestral
    return family.trajectory(predict, noise, protocol, step_noise=step_noise if ancestral else None)


def calibration_noise(shape: tuple[int, ...], seed: int, samples: Tensor, step: int | None = None) -> Tensor:
    """(N, *shape) start noise of the calibration images with these numbers, or the noise of one ancestral step."""
    extra = () if step is None else (1 + step,)
    return torch.stack([normal(shape, seed, Purpose.CALIBRATION_NOISE, int(i), *extra) for i in samples])


def predictor(model: Network, conditions: tuple[Tensor, ...], protocol: AnyProtocol) -> Predictor:
    """Function (x, timestep) → input of the sampler after guidance: noise and variance of images, velocity of clips."""
    return family_of(model.config).predictor(model, conditions, protocol)


@dataclass(frozen=True)
class CalibrateJob:
    """The step weights → calibration set: `samples` of a kind, computed on `device` (`cpu` or `cuda:N`).

    A video model takes its prompts in turn from `text`, or from a file of `embeddings`, spread over it.
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
    """Run a job: record the calibration set and write it."""
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
