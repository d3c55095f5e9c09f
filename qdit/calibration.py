"""Calibration sets: noisy images, timesteps and labels, collected from the full-precision model's own trajectories.

`trajectory` is Q-DiT's collection (each image is recorded at a step of its own, distinct within a batch of 16,
conditional half only); `ndtc` is PTQ4DM's normally distributed timesteps, with correct (x_t, t) pairs and, under
guidance, the unconditional copies as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qdit.artifacts import load_tensors, require_finite, save_tensors
from qdit.errors import ConfigError, DataError, did_you_mean
from qdit.models.dit import DiT, DiTConfig
from qdit.models.loading import load_model
from qdit.quant.sites import prepare_inference
from qdit.sampling.guidance import denoiser
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import trajectory
from qdit.sampling.schedule import respaced
from qdit.seeds import Purpose, generator, normal

KINDS = ("trajectory", "ndtc")
TRAJECTORY_BATCH = 16
NDTC_MEAN, NDTC_STD = 0.4, 0.4
"""Fractions of the number of steps: the values of PTQ4DM's script."""


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of the model: x (N, C, L, L) float32, timestep (N,) int64 on the 0…999 scale, label (N,) int64."""

    kind: str
    x: Tensor
    timestep: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Forward arguments in consecutive batches; the last may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.x[part], self.timestep[part], self.label[part]


def chosen_steps(kind: str, samples: int, steps: int, seed: int) -> np.ndarray:
    """Step index (0 = least noisy) at which each sample is recorded, (samples,)."""
    if kind == "trajectory":
        size = min(TRAJECTORY_BATCH, steps)
        batches = [
            generator(seed, Purpose.CALIBRATION_STEP, batch).permutation(steps)[:size]
            for batch in range(-(-samples // size))
        ]
        return np.concatenate(batches)[:samples]
    if kind == "ndtc":
        draw = generator(seed, Purpose.CALIBRATION_STEP).normal(NDTC_MEAN * steps, NDTC_STD * steps, samples)
        return np.clip(draw.astype(np.int64), 0, steps - 1)
    raise ConfigError(f"calibration kind {kind!r}: allowed are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


def collect(model: DiT, kind: str, protocol: Protocol, *, samples: int) -> CalibrationSet:
    """Record `samples` noisy images of the model's own DDIM trajectories (with the protocol's steps and guidance)."""
    if samples < 1:
        raise ConfigError(f"calibration samples {samples}: must be at least 1")
    seed, config = protocol.seed, model.config
    chosen = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, seed))
    shape = (config.in_channels, config.input_size, config.input_size)
    noise = torch.stack([normal(shape, seed, Purpose.CALIBRATION_NOISE, i) for i in range(samples)])
    label = torch.from_numpy(generator(seed, Purpose.CALIBRATION_LABEL).integers(config.num_classes, size=samples))
    schedule = respaced(protocol.steps)
    recorded = torch.empty_like(noise)
    with torch.inference_mode():
        for step, x in trajectory(denoiser(model, label, protocol.cfg_scale), noise, schedule):
            recorded[chosen == step] = x[chosen == step]
    timestep = torch.from_numpy(schedule.timesteps)[chosen]
    if kind == "ndtc" and protocol.guided:
        recorded, timestep = recorded.repeat(2, 1, 1, 1), timestep.repeat(2)
        label = torch.cat([label, torch.full_like(label, config.null_class)])
    return CalibrationSet(kind, recorded, timestep, label)


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
    return CalibrationSet(kind, x, timestep, label)


def calibrate_weights_file(weights: Path, out: Path, kind: str, protocol: Protocol, *, samples: int) -> None:
    """The step weights → calibration set."""
    model = prepare_inference(load_model(weights))
    save_calibration(out, collect(model, kind, protocol, samples=samples), protocol)
