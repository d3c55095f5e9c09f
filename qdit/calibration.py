"""Calibration sets: noisy images, timesteps and labels, collected from the full-precision model's own trajectories.

`trajectory` is Q-DiT's collection: each image is recorded at a step of its own, distinct within a batch of 16,
conditional half only. The others follow the protocol's sampler and hold, under guidance, unconditional copies as well:
`ndtc` is PTQ4DM's normally distributed timesteps (with correct (x_t, t) pairs), `ndtc-wide` the same with the defaults
of its code, `uniform` draws one step per image (RepQ-ViT's images, spread over time), and `per-step` records every
image at every step (PTQ4DiT, TFMQ-DM, TQ-DiT, Q-Diffusion, PTQD), of which methods take the part they need.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qdit.artifacts import load_tensors, require_finite, save_tensors
from qdit.errors import ConfigError, DataError, did_you_mean
from qdit.models.dit import DiT, DiTConfig
from qdit.models.loading import load_dit
from qdit.quant.sites import prepare_inference
from qdit.sampling.guidance import denoiser
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import trajectory
from qdit.sampling.schedule import respaced
from qdit.seeds import Purpose, generator, normal

KINDS = ("trajectory", "ndtc", "ndtc-wide", "uniform", "per-step")
TRAJECTORY_BATCH = 16
NORMAL = {"ndtc": (0.4, 0.4), "ndtc-wide": (0.5, 0.35)}
"""Mean and deviation as fractions of the number of steps: PTQ4DM's script, and the defaults of its code."""


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of the model: x (N, C, L, L) float32, timestep (N,) int64 on the 0…999 scale, label (N,) int64.

    `protocol` is what its trajectories were sampled with.
    """

    kind: str
    x: Tensor
    timestep: Tensor
    label: Tensor
    protocol: Protocol

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Forward arguments in consecutive batches; the last may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.x[part], self.timestep[part], self.label[part]

    def take(self, rows: Tensor) -> "CalibrationSet":
        """The samples with these indices, or where a mask is true."""
        return replace(self, x=self.x[rows], timestep=self.timestep[rows], label=self.label[rows])

    def at_step(self, step: int) -> "CalibrationSet":
        """The samples of one step of the protocol's schedule (0 = least noisy)."""
        return self.take(self.timestep == int(respaced(self.protocol.steps).timesteps[step]))

    def spread(self, steps: int, per_step: int) -> "CalibrationSet":
        """The first `per_step` samples at each of `steps` steps of a `per-step` set, evenly spaced from the noisy end.

        Steps are numbers 0, k, 2k, … in the order of sampling, k = all steps // `steps` (PTQ4DiT, Q-Diffusion). A
        schedule with fewer steps gives more samples of each, whole pairs of a guided set, so that the total stays;
        where samples are too few, all there are.
        """
        number = self.protocol.steps
        stride = max(1, number // steps)
        chosen = [number - 1 - index * stride for index in range(min(steps, number))]
        if len(chosen) < steps:
            pair = 2 if self.protocol.guided else 1
            per_step = -(-steps * per_step // (len(chosen) * pair)) * pair
        timesteps = respaced(number).timesteps
        parts = [(self.timestep == int(timesteps[step])).nonzero()[:, 0][:per_step] for step in chosen]
        return self.take(torch.cat(parts))

    def scattered(self, count: int) -> "CalibrationSet":
        """`count` samples evenly spaced over the set (all of it if it is smaller)."""
        return self.take(torch.linspace(0, len(self) - 1, min(count, len(self))).round().long())

    def conditional(self, null_class: int) -> "CalibrationSet":
        """Without the unconditional copies."""
        return self.take(self.label != null_class)


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


def collect(model: DiT, kind: str, protocol: Protocol, *, samples: int) -> CalibrationSet:
    """Record noisy images of the model's own trajectories (with the protocol's steps and guidance).

    `samples` is the number of noisy images; in a `per-step` set all steps share them equally (rounded up). Trajectories
    follow the protocol's sampler, except that those of `trajectory` are always DDIM's, as in Q-DiT's script.
    """
    if samples < 1:
        raise ConfigError(f"calibration samples {samples}: must be at least 1")
    if kind == "per-step":
        samples = -(-samples // protocol.steps)
    seed, config = protocol.seed, model.config
    chosen = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, seed))
    label = torch.from_numpy(generator(seed, Purpose.CALIBRATION_LABEL).integers(config.num_classes, size=samples))
    ancestral = kind != "trajectory" and protocol.sampler == "ddpm"
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        steps = trajectory(
            denoiser(model, label, protocol.cfg_scale),
            noise_images(model, seed, samples),
            respaced(protocol.steps),
            step_noise=(lambda step: noise_images(model, seed, samples, step)) if ancestral else None,
        )
        for step, x in steps:
            rows = (chosen == step) if kind != "per-step" else torch.full_like(chosen, step >= 0, dtype=torch.bool)
            now = int(respaced(protocol.steps).timesteps[step])
            parts.append((x[rows], torch.full((int(rows.sum()),), now), rows.nonzero()[:, 0]))
    found_x, timestep, index = (torch.cat(column) for column in zip(*parts, strict=True))
    if kind != "per-step":
        order = index.argsort()
        found_x, timestep, index = found_x[order], timestep[order], index[order]
    found = CalibrationSet(kind, found_x.clone(), timestep, label[index], protocol)
    return with_unconditional(found, config.null_class) if kind != "trajectory" and protocol.guided else found


def noise_images(model: DiT, seed: int, samples: int, step: int | None = None) -> Tensor:
    """(samples, C, L, L) start noise of calibration images, or the noise of one ancestral step."""
    config = model.config
    shape = (config.in_channels, config.input_size, config.input_size)
    extra = () if step is None else (1 + step,)
    return torch.stack([normal(shape, seed, Purpose.CALIBRATION_NOISE, i, *extra) for i in range(samples)])


def with_unconditional(found: CalibrationSet, null_class: int) -> CalibrationSet:
    """Every sample followed by its copy with the null class."""
    label = torch.stack([found.label, torch.full_like(found.label, null_class)], dim=1).flatten()
    return replace(found, x=found.x.repeat_interleave(2, 0), timestep=found.timestep.repeat_interleave(2), label=label)


def save_calibration(path: Path, calibration: CalibrationSet, protocol: Protocol) -> None:
    """Write a calibration set as safetensors."""
    tensors = {"x": calibration.x, "timestep": calibration.timestep, "label": calibration.label}
    save_tensors(path, tensors, {"kind": calibration.kind, "protocol": protocol.to_dict()})


def load_calibration(path: Path, config: DiTConfig) -> CalibrationSet:
    """Read a calibration set and check that it fits the model: names, shapes, ranges, no NaN."""
    tensors, metadata = load_tensors(path, error=DataError)
    kind = metadata.get("kind") if isinstance(metadata, dict) else None
    if set(tensors) != {"x", "timestep", "label"} or kind not in KINDS:
        raise DataError(f"{path}: not a calibration set (kind {kind!r}, tensors {sorted(tensors)}); calibrate again")
    x, timestep, label = tensors["x"], tensors["timestep"], tensors["label"]
    expected = (config.in_channels, config.input_size, config.input_size)
    if len(x) == 0 or tuple(x.shape[1:]) != expected or not len(x) == len(timestep) == len(label):
        raise DataError(
            f"{path}: x has shape {tuple(x.shape)}, the model takes (N, {', '.join(map(str, expected))}) with N"
            " timesteps and labels; calibrate again for this model"
        )
    require_finite(f"{path}: x", x)
    if not ((0 <= timestep) & (timestep < 1000)).all() or not ((0 <= label) & (label <= config.null_class)).all():
        raise DataError(f"{path}: timesteps must lie in 0…999 and labels in 0…{config.null_class}; calibrate again")
    try:
        protocol = Protocol(**metadata["protocol"])
    except (KeyError, TypeError):
        raise DataError(f"{path}: does not say how it was sampled (no whole protocol); calibrate again") from None
    return CalibrationSet(kind, x, timestep, label, protocol)


def calibrate_weights_file(weights: Path, out: Path, kind: str, protocol: Protocol, *, samples: int) -> None:
    """The step weights → calibration set."""
    model = prepare_inference(load_dit(weights))
    save_calibration(out, collect(model, kind, protocol, samples=samples), protocol)
