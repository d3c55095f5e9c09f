"""AdaRound (P12): learned rounding of weights with fixed (scale, zero_point) (Nagel et al., 2020)."""

import torch
from torch import Tensor

ZETA, GAMMA = 1.1, -0.1
"""Ends of the stretched sigmoid."""


def initial_alpha(weight: Tensor, scale: Tensor) -> Tensor:
    """α₀ for which h(α₀) is the fractional part of weight / scale: soft rounding starts at the weight itself."""
    ratio = weight / scale
    fraction = ratio - ratio.floor()
    return -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """h(α) = clamp(1.2 σ(α) − 0.1, 0, 1)."""
    return (alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def round_weight(weight: Tensor, alpha: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, hard: bool) -> Tensor:
    """Ŵ from ⌊W/s⌋ + h(α), differentiable in α; `hard` rounds up where α ≥ 0, so only floor and ceiling codes occur."""
    up = (alpha >= 0).to(weight.dtype) if hard else rectified_sigmoid(alpha)
    codes = ((weight / scale).floor() + up + zero_point).clamp(0, 2**bits - 1)
    return (codes - zero_point) * scale


def rounding_regularizer(alpha: Tensor, beta: float) -> Tensor:
    """Σ (1 − |2h − 1|^β), which is 0 where every weight has decided, shape ()."""
    return (1 - (2 * rectified_sigmoid(alpha) - 1).abs().pow(beta)).sum()
