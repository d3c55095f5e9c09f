"""Activation quantizers with parameters for each timestep (TFMQ-DM's finite-set calibration) or time group (TQ-DiT)."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from qdit.core.affine import fake_quantize
from qdit.models.roles import StepContext
from qdit.quant.activation import Activation, register_activation_kind
from qdit.quant.nonlinear import twin_softmax


class TimestepTable(nn.Module):
    """Finds the quantizer parameters for each sample of a batch: those of the nearest calibrated timestep.

    `timesteps` (n,) are ascending: integers on 0…999, or fractions on the 0…1000 of a rectified flow. `rows` (n,) is
    the index of each timestep's parameters. A timestep in the middle of two calibrated ones gets the parameters of the
    lower one.
    """

    timesteps: Tensor
    rows: Tensor
    middles: Tensor

    def __init__(self, timesteps: Tensor, rows: Tensor, context: StepContext) -> None:
        super().__init__()
        kept = torch.float32 if timesteps.is_floating_point() else torch.int32
        self.register_buffer("timesteps", timesteps.to(kept))
        self.register_buffer("rows", rows.to(torch.int32))
        middles = (timesteps[1:] + timesteps[:-1]).float() / 2
        self.register_buffer("middles", middles, persistent=False)
        self.context = context

    def lookup(self, parameters: Tensor, dims: int) -> Tensor:
        """Return the parameters of each sample of the current batch, shaped (N, 1, …) with `dims` dimensions."""
        timestep = self.context.timestep
        if timestep is None:
            raise RuntimeError("a timestep-dependent quantizer was called outside the model's forward")
        nearest = torch.bucketize(timestep.float(), self.middles)
        return parameters[self.rows[nearest].long()].reshape(-1, *[1] * (dims - 1))


@register_activation_kind("timestep-static")
class TimestepStaticActivation(Activation):
    """Static quantizer with one range for each calibrated timestep: `scale` and `zero_point` are (timesteps,)."""

    needs_context = True
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, *, bits: int, scale: Tensor, zero_point: Tensor, timesteps: Tensor, context: StepContext
    ) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale.detach().float().reshape(-1))
        self.register_buffer("zero_point", zero_point.detach().reshape(-1).to(torch.int32))
        self.table = TimestepTable(timesteps, torch.arange(len(timesteps), device=timesteps.device), context)

    def spec(self) -> dict[str, Any]:
        return {"kind": "timestep-static", "bits": self.bits, "timesteps": self.scale.numel()}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], context: StepContext) -> Self:
        """Build the quantizer from a spec and its tensors."""
        return cls(
            bits=spec["bits"],
            scale=tensors["scale"],
            zero_point=tensors["zero_point"],
            timesteps=tensors["table.timesteps"],
            context=context,
        )

    def forward(self, x: Tensor) -> Tensor:
        scale = self.table.lookup(self.scale, x.dim())
        zero_point = self.table.lookup(self.zero_point.to(x.dtype), x.dim())
        return fake_quantize(x, scale, zero_point, self.bits)


@register_activation_kind("twin-softmax")
class TwinSoftmaxActivation(Activation):
    """Two-region quantizer (MRQ) of softmax outputs: fine steps below `split`, coarse steps above it (TQ-DiT).

    `split` is (groups,), one number for each group of timesteps. `mode="sum"` is the released form, which adds both
    regions.
    """

    needs_context = True
    split: Tensor

    def __init__(
        self,
        *,
        bits: int,
        split: Tensor,
        timesteps: Tensor,
        rows: Tensor,
        context: StepContext,
        mode: Literal["piecewise", "sum"] = "piecewise",
    ) -> None:
        super().__init__()
        self.bits, self.mode = bits, mode
        self.register_buffer("split", split.detach().float().reshape(-1))
        self.table = TimestepTable(timesteps, rows, context)

    def spec(self) -> dict[str, Any]:
        return {"kind": "twin-softmax", "bits": self.bits, "mode": self.mode, "groups": self.split.numel()}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], context: StepContext) -> Self:
        """Build the quantizer from a spec and its tensors."""
        return cls(
            bits=spec["bits"],
            mode=spec["mode"],
            split=tensors["split"],
            timesteps=tensors["table.timesteps"],
            rows=tensors["table.rows"],
            context=context,
        )

    def forward(self, x: Tensor) -> Tensor:
        return twin_softmax(x, self.table.lookup(self.split, x.dim()), self.bits, mode=self.mode)
