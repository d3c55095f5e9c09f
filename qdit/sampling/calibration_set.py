"""A calibration set: inputs of a model, the protocol that sampled them, and the file that holds both."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qdit.core.errors import DataError, Unsupported
from qdit.core.files import METADATA_KEY, load_tensors, require_finite, save_tensors
from qdit.models.network import NetworkConfig
from qdit.models.weights_files import weights_sha256
from qdit.sampling.families import family_named, family_of
from qdit.sampling.family import AnyFamily
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.origin import PROTOCOLS, facts_of, require_repeated
from qdit.sampling.pipeline_protocol import PipelineProtocol
from qdit.sampling.protocol import Protocol, Sampled

KINDS = ("trajectory", "ndtc", "ndtc-wide", "ndtc-released", "uniform", "per-step", "regression")

AnyProtocol = Protocol | FlowProtocol | PipelineProtocol
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = {"label": (torch.int64,), "mask": (torch.bool,), "unconditional": (torch.bool,), "text": FLOATS}
"""Name of a tensor of a calibration file → its types; of x float32, of timestep that of the schedule."""


def schedule_of(protocol: Sampled) -> Tensor:
    """Timesteps (steps,) as the model sees them. Index 0 is the least noisy.

    They are int64 on 0…999, or for a flow float32 on 0…1000.
    """
    return torch.from_numpy(protocol.schedule.copy())


@dataclass(frozen=True)
class CalibrationSet:
    """Recorded inputs of a model: x (N, C, …) float32, timestep (N,) of the schedule, and further forward arguments.

    These `conditions` are (label (N,) int64) for an image model, (text (N, L, text_width), mask (N, L)) for a video
    model. `unconditional` (N,) is true for samples of the unconditional branch. `protocol` is that of the trajectories.
    `weights_sha256` identifies the weights; None if it is not known.
    """

    kind: str
    x: Tensor
    timestep: Tensor
    conditions: tuple[Tensor, ...]
    unconditional: Tensor
    protocol: AnyProtocol
    weights_sha256: str | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def label(self) -> Tensor:
        """Labels (N,) of a set of images; raises Unsupported for a set of clips."""
        if len(self.conditions) != 1:
            raise Unsupported("calibration data of a video model has prompts instead of class labels")
        return self.conditions[0]

    @property
    def schedule(self) -> Tensor:
        """Timesteps of the protocol as the model sees them; index 0 is the least noisy."""
        return schedule_of(self.protocol).to(self.timestep.device)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Forward arguments that all samples share: frames per second, height and width of a clip."""
        return tuple(torch.tensor(value) for value in self.protocol.constants)

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the forward arguments of `size` consecutive samples at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield (
                self.x[rows],
                self.timestep[rows],
                *(condition[rows] for condition in self.conditions),
                *self.constants,
            )

    def take(self, rows: Tensor) -> "CalibrationSet":
        """The set of only those samples that have these indices, or at which a boolean mask is true."""
        return replace(
            self,
            x=self.x[rows],
            timestep=self.timestep[rows],
            conditions=tuple(condition[rows] for condition in self.conditions),
            unconditional=self.unconditional[rows],
        )

    def split(self, size: int) -> "Iterator[CalibrationSet]":
        """Split the set into sets of `size` consecutive samples; the last set may be smaller."""
        return (self.take(rows) for rows in torch.arange(len(self), device=self.timestep.device).split(size))

    def to(self, device: torch.device) -> "CalibrationSet":
        """The set with its tensors moved to a device."""
        return replace(
            self,
            x=self.x.to(device),
            timestep=self.timestep.to(device),
            conditions=tuple(condition.to(device) for condition in self.conditions),
            unconditional=self.unconditional.to(device),
        )

    def at_step(self, step: int) -> "CalibrationSet":
        """The set of only those samples that were recorded at this step of the schedule (0 = least noisy)."""
        return self.take(self.timestep == self.schedule[step])

    def spread(self, steps: int, per_step: int) -> "CalibrationSet":
        """From a `per-step` set, the first `per_step` samples at each of `steps` evenly spaced steps.

        The steps are 0, k, 2k, … in the order of sampling, with k = all steps // `steps` (PTQ4DiT, Q-Diffusion). A
        schedule with fewer steps gives more samples at each step, so that the total stays the same. In a guided set, a
        sample and its unconditional copy stay together. If there are too few samples, all are taken.
        """
        number = self.protocol.steps
        stride = max(1, number // steps)
        step_indices = [number - 1 - index * stride for index in range(min(steps, number))]
        if len(step_indices) < steps:
            pair = 2 if self.protocol.guided else 1
            per_step = -(-steps * per_step // (len(step_indices) * pair)) * pair
        schedule = self.schedule
        parts = [(self.timestep == schedule[step]).nonzero()[:, 0][:per_step] for step in step_indices]
        return self.take(torch.cat(parts))

    def scattered(self, count: int) -> "CalibrationSet":
        """`count` samples, evenly spaced over the set; the whole set if it has fewer."""
        return self.take(torch.linspace(0, len(self) - 1, min(count, len(self))).round().long())

    def conditional(self) -> "CalibrationSet":
        """The set without the samples of the unconditional branch."""
        return self.take(~self.unconditional)


def with_unconditional(data: CalibrationSet, null: Sequence[Tensor]) -> CalibrationSet:
    """The set with a copy after each sample, whose conditions are replaced by `null` (no label or no text)."""
    pairs = zip(data.conditions, null, strict=True)
    return replace(
        data,
        x=data.x.repeat_interleave(2, 0),
        timestep=data.timestep.repeat_interleave(2),
        conditions=tuple(torch.stack(pair, dim=1).flatten(0, 1) for pair in pairs),
        unconditional=torch.tensor([False, True]).repeat(len(data)),
    )


def save_calibration(path: Path, calibration: CalibrationSet, facts: Mapping[str, Any] | None = None) -> None:
    """Write a calibration set as safetensors, with its protocol and other `facts` about its origin."""
    family = family_named(calibration.protocol.family)
    kept = family.kept_tensors(calibration.conditions, calibration.unconditional)
    tensors = dict(zip(family.calibration_tensors, (calibration.x, calibration.timestep, *kept), strict=True))
    save_tensors(path, tensors, {"kind": calibration.kind, "protocol": calibration.protocol.to_dict(), **(facts or {})})


def load_calibration(path: Path, config: NetworkConfig) -> CalibrationSet:
    """Read a calibration set and check that it fits the model: names, shapes, ranges, no NaN."""
    tensors, metadata = load_tensors(path, error=DataError)
    family = family_of(config)
    kind = metadata.get("kind") if isinstance(metadata, dict) else None
    if set(tensors) != set(family.calibration_tensors) or kind not in KINDS:
        raise DataError(
            f"{path}: not a calibration set of {family.model_is} model (kind {kind!r}, tensors {sorted(tensors)});"
            " calibrate again"
        )
    require_finite(f"{path}: x", tensors["x"])
    protocol = stored_protocol(path, metadata, family)
    check_dtypes(path, tensors, DTYPES | {"timestep": (schedule_of(protocol).dtype,)})
    check_shapes(path, tensors, family.shape(config, protocol))
    conditions, unconditional = family.stored_conditions(path, tensors, config)
    weights = metadata.get("weights_sha256")
    return CalibrationSet(kind, tensors["x"], tensors["timestep"], conditions, unconditional, protocol, weights)


def load_calibration_of(path: Path, config: NetworkConfig, weights: Path) -> CalibrationSet:
    """Load a calibration set; DataError unless it was made with these weights."""
    loaded = load_calibration(path, config)
    require_made_with(loaded, path, weights)
    return loaded


def require_made_with(loaded: CalibrationSet, path: Path, weights: Path) -> None:
    """Raise DataError unless the calibration set `loaded` was made with the weights of this file."""
    digest = weights_sha256(weights)
    if loaded.weights_sha256 != digest:
        made_with = f"{loaded.weights_sha256[:12]}…" if loaded.weights_sha256 else "weights that it does not name"
        raise DataError(
            f"{path}: holds calibration data of {made_with}, {weights} is {digest[:12]}…; calibrate with these weights"
        )


def require_sampled_so(path: Path, stated: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a calibration file has the stated protocol values. A value None is not checked."""
    try:
        with safe_open(path, framework="np") as data:
            metadata = json.loads((data.metadata() or {}).get(METADATA_KEY, "null"))
        protocol = recorded_protocol(metadata)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return  # whoever loads it says what is wrong with it
    require_repeated(path, facts_of(protocol), stated, again="calibrate with these")


def recorded_protocol(metadata: Mapping[str, Any]) -> Sampled:
    """The protocol in the metadata of a calibration file, for images, clips or a diffusers transformer."""
    if metadata.get("family") == PipelineProtocol.family:
        return PipelineProtocol(**metadata["protocol"])
    return PROTOCOLS["stdit3" if "fps" in metadata["protocol"] else "dit"](**metadata["protocol"])


def stored_protocol(path: Path, metadata: Mapping[str, Any], family: AnyFamily) -> AnyProtocol:
    """Make the protocol of the trajectories from a calibration file's metadata; DataError if it is not valid."""
    try:
        return cast("AnyProtocol", family.protocol(**metadata["protocol"]))
    except (KeyError, TypeError):
        raise DataError(f"{path}: does not say how it was sampled (no whole protocol); calibrate again") from None


def check_dtypes(path: Path, tensors: Mapping[str, Tensor], types: Mapping[str, tuple[torch.dtype, ...]]) -> None:
    """Raise DataError for a tensor whose type is not among its allowed `types`.

    Names without a list must be float32.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in (allowed := types.get(name, (torch.float32,))):
            listed = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            stored = str(tensor.dtype).removeprefix("torch.")
            raise DataError(f"{path}: {name} is {stored}, must be {listed}; calibrate again")


def check_shapes(path: Path, tensors: Mapping[str, Tensor], expected: tuple[int, ...]) -> None:
    """Raise DataError unless x is (N, *expected) with N ≥ 1 and all other tensors have N rows too."""
    x = tensors["x"]
    if len(x) == 0 or tuple(x.shape[1:]) != expected or len({len(tensor) for tensor in tensors.values()}) > 1:
        others = ", ".join(name for name in tensors if name != "x")
        raise DataError(
            f"{path}: x has shape {tuple(x.shape)}, the model takes (N, {', '.join(map(str, expected))}) with N of each"
            f" of {others}; calibrate again for this model"
        )
