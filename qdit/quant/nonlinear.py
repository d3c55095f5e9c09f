"""Quantizers without one uniform scale: log√2 for softmax (RepQ-ViT), two regions for softmax and GELU (TQ-DiT).

The functions come first, then the activation quantizers that use them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from qdit.quant.activation import Activation, register_activation_kind
from qdit.quant.quantiles import quantiles
from qdit.quant.ranges import PERCENTILES, SMALLEST_SCALE

GELU_MINIMUM = 0.16997124254703522
"""−min GELU(x): the length of the negative range of a GELU output (PTQ4ViT)."""


def log_sqrt2(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Quantize x ≥ 0 to powers of √2 (RepQ-ViT): x̂ = scale · 2^(−q/2) with q = round(−2 log2(x / scale)).

    A value becomes 0 if its code q would be 2^bits or more.
    """
    codes = (x / scale).log2().mul(-2).round()
    values = torch.exp2(-codes.clamp(min=0) / 2) * scale
    return values.masked_fill(codes >= 2**bits, 0)


def log_sqrt2_search(x: Tensor, bits: int, *, percentiles: Sequence[float] = PERCENTILES) -> Tensor:
    """Find the scale () of `log_sqrt2` with the smallest squared error.

    Candidates are quantiles of all values of x.
    """
    candidates = quantiles(x.reshape(1, -1), percentiles)[0]
    errors = torch.stack([(log_sqrt2(x, scale, bits) - x).square().mean() for scale in candidates])
    return candidates[errors.nan_to_num(nan=torch.inf).argmin()]


def twin_softmax(
    x: Tensor, split: float | Tensor, bits: int, *, mode: Literal["piecewise", "sum"] = "piecewise"
) -> Tensor:
    """Quantize values in [0, 1] in two regions (TQ-DiT), with Q = 2^(bits − 1) levels in each region.

    The steps are split / (Q − 1) below `split` and 1 / (Q − 1) above it. `split` broadcasts against x. The mode `sum`
    is the released form: it adds the results of both regions, so `split` is added to every value. It serves only to
    compare with the release.
    """
    steps = 2 ** (bits - 1) - 1
    split = torch.as_tensor(split, dtype=x.dtype, device=x.device)
    coarse = (torch.maximum(x, split).clamp(max=1) * steps).round() / steps
    fine_step = split / steps
    fine = (torch.minimum(x, split).clamp(min=0) / fine_step).round() * fine_step
    return coarse + fine if mode == "sum" else torch.where(x < split, fine, coarse)


def twin_gelu(x: Tensor, positive_scale: Tensor, bits: int, *, negative_scale: float | None = None) -> Tensor:
    """Quantize GELU outputs in two regions (TQ-DiT): 2^(bits − 1) levels for positive values, and as many for negative.

    The step for positive values is `positive_scale`. The levels for negative values cover the range of the GELU.
    """
    half = 2 ** (bits - 1)
    below = twin_gelu_negative_scale(bits) if negative_scale is None else negative_scale
    positive = (x / positive_scale).round().clamp(0, half - 1) * positive_scale
    negative = (x / below).round().clamp(-half, 0) * below
    return positive + negative


def twin_gelu_negative_scale(bits: int) -> float:
    """Return the step of `twin_gelu` for negative values."""
    return GELU_MINIMUM / 2 ** (bits - 1)


def signed_scale(x: Tensor, bits: int, *, per: int | None = None) -> Tensor:
    """Compute the start value of TQ-DiT's searches: max |x| / (2^(bits − 1) − 0.5).

    The shape is (), or (n,) with one value for each index of the dimension `per`.
    """
    largest = x.abs().amax() if per is None else x.abs().transpose(0, per).flatten(1).amax(dim=1)
    return largest.clamp(min=SMALLEST_SCALE) / (2 ** (bits - 1) - 0.5)


@register_activation_kind("log-sqrt2")
class LogSqrt2Activation(Activation):
    """The quantizer `log_sqrt2` with one calibrated scalar, `scale`, for RepQ-ViT's softmax outputs."""

    scale: Tensor

    def __init__(self, *, bits: int, scale: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale.detach().float().reshape(()))

    def spec(self) -> dict[str, Any]:
        return {"kind": "log-sqrt2", "bits": self.bits}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from a spec and its tensors."""
        return cls(bits=spec["bits"], scale=tensors["scale"])

    def forward(self, x: Tensor) -> Tensor:
        return log_sqrt2(x, self.scale, self.bits)


@register_activation_kind("twin-gelu")
class TwinGeluActivation(Activation):
    """The quantizer `twin_gelu` with one calibrated scalar, `positive_scale`, for the input of fc2 (TQ-DiT)."""

    positive_scale: Tensor

    def __init__(self, *, bits: int, positive_scale: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("positive_scale", positive_scale.detach().float().reshape(()))

    def spec(self) -> dict[str, Any]:
        return {"kind": "twin-gelu", "bits": self.bits}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from a spec and its tensors."""
        return cls(bits=spec["bits"], positive_scale=tensors["positive_scale"])

    def forward(self, x: Tensor) -> Tensor:
        return twin_gelu(x, self.positive_scale, self.bits)
