"""A calibration set of a diffusers transformer: keyword arguments of its forward pass, for many samples."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.quant.batches import Keywords
from qdit.sampling.calibration_set import CalibrationSet
from qdit.sampling.pipeline_protocol import PipelineProtocol


@dataclass(frozen=True)
class KeywordSet(CalibrationSet):
    """Recorded inputs of a transformer of diffusers.

    `calls` holds the arguments of all samples; its `timestep` may have any type. The set's own `timestep` is float32
    and holds timesteps of the protocol. `x` is the main input (`hidden_states`), `conditions` is empty.
    """

    calls: Keywords | None = None

    @classmethod
    def of(
        cls,
        kind: str,
        calls: Keywords,
        protocol: PipelineProtocol,
        *,
        unconditional: Tensor | None = None,
        weights_sha256: str | None = None,
    ) -> "KeywordSet":
        """Make a set of recorded calls. `unconditional` (N,) is true for samples of the unconditional branch."""
        marks = torch.zeros(len(calls), dtype=torch.bool) if unconditional is None else unconditional
        main = next(iter(calls.samples.values()))
        x = calls.samples.get("hidden_states", main)
        return cls(kind, x, calls.timestep.float(), (), marks, protocol, weights_sha256, calls)

    @property
    def keywords(self) -> Keywords:
        """The forward arguments of all samples."""
        assert self.calls is not None
        return self.calls

    def __len__(self) -> int:
        return len(self.keywords)

    @property
    def label(self) -> Tensor:
        """Always raises Unsupported: the conditions of these samples are not class labels."""
        raise Unsupported("calibration data of a diffusers transformer have keyword arguments instead of class labels")

    def batches(self, size: int) -> Iterator[Any]:
        """Yield the forward arguments of `size` consecutive samples at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.keywords.take(torch.arange(start, min(start + size, len(self))))

    def take(self, rows: Tensor) -> "KeywordSet":
        """The set of only those samples that have these indices, or at which a boolean mask is true."""
        indices = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return replace(
            self,
            x=self.x[indices],
            timestep=self.timestep[indices],
            unconditional=self.unconditional[indices],
            calls=self.keywords.take(indices),
        )

    def to(self, device: torch.device) -> "KeywordSet":
        """The set with its tensors moved to a device."""
        return replace(
            self,
            x=self.x.to(device),
            timestep=self.timestep.to(device),
            unconditional=self.unconditional.to(device),
            calls=self.keywords.to(device),
        )
