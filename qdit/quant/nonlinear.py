"""Quantizers that are not affine: log√2 for softmax outputs (RepQ-ViT), twin uniform for softmax and GELU (TQ-DiT)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from qdit.quant.quantiles import quantiles
from qdit.quant.ranges import PERCENTILES

GELU_MINIMUM = 0.16997124254703522
"""−min GELU(x): the length of the negative range of a GELU output (PTQ4ViT)."""


def log_sqrt2(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """P10: x̂ = scale · 2^(−q/2), q = round(−2 log2(x / scale)); codes of 2^bits and more become 0. For x ≥ 0."""
    codes = (x / scale).log2().mul(-2).round()
    values = torch.exp2(-codes.clamp(min=0) / 2) * scale
    return values.masked_fill(codes >= 2**bits, 0)


def log_sqrt2_search(x: Tensor, bits: int, *, percentiles: Sequence[float] = PERCENTILES) -> Tensor:
    """Scale () of P10: of the quantiles of all values the one with the least squared error."""
    candidates = quantiles(x.reshape(1, -1), percentiles)[0]
    errors = torch.stack([(log_sqrt2(x, scale, bits) - x).square().mean() for scale in candidates])
    return candidates[errors.nan_to_num(nan=torch.inf).argmin()]


def twin_softmax(x: Tensor, split: float, bits: int, *, mode: Literal["piecewise", "sum"] = "piecewise") -> Tensor:
    """P11 for values in [0, 1]: steps of split / (Q − 1) below `split` and of 1 / (Q − 1) above, Q = 2^(bits − 1).

    `sum` is the released form, which adds both halves and so adds `split` to every value; for parity only.
    """
    steps = 2 ** (bits - 1) - 1
    coarse = (x.clamp(split, 1) * steps).round() / steps
    fine_step = split / steps
    fine = (x.clamp(0, split) / fine_step).round() * fine_step
    return coarse + fine if mode == "sum" else torch.where(x < split, fine, coarse)


def twin_gelu(x: Tensor, positive_scale: Tensor, bits: int, *, negative_scale: float | None = None) -> Tensor:
    """P11 for GELU outputs: Q levels with a searched step above zero, Q levels that span GELU's minimum below."""
    half = 2 ** (bits - 1)
    below = twin_gelu_negative_scale(bits) if negative_scale is None else negative_scale
    positive = (x / positive_scale).round().clamp(0, half - 1) * positive_scale
    negative = (x / below).round().clamp(-half, 0) * below
    return positive + negative


def twin_gelu_negative_scale(bits: int) -> float:
    """Step of the negative half."""
    return GELU_MINIMUM / 2 ** (bits - 1)


def signed_scale(x: Tensor, bits: int) -> Tensor:
    """Symmetric start value of TQ-DiT's searches: max |x| / (2^(bits − 1) − 0.5), shape ()."""
    return x.abs().amax() / (2 ** (bits - 1) - 0.5)
