"""AdaRound (P12): learned rounding of weights with fixed (scale, zero_point) (Nagel et al., 2020)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qdit.quant.weight import QuantizedWeight

ZETA, GAMMA = 1.1, -0.1
"""Ends of the stretched sigmoid."""


def initial_alpha(weight: Tensor, scale: Tensor) -> Tensor:
    """Start value α₀ with h(α₀) = fractional part of weight / scale. So the soft weight begins at the weight itself."""
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


class SoftRounding(nn.Module):
    """Rounding of one weight in training: scale and zero point of a quantized weight, α per element as parameter.

    The soft weight of `round_weight` is base + h(α) · span: `base` is the floor code's value, `span` the scale, or 0
    where the floor is already clamped.
    """

    def __init__(self, weight: Tensor, stored: QuantizedWeight) -> None:
        super().__init__()
        self.stored = stored
        levels, repeats = 2**stored.bits - 1, weight.shape[1] // stored.scale.shape[1]
        scale = stored.scale.float().repeat_interleave(repeats, dim=1)
        zero_point = stored.zero_point.float().repeat_interleave(repeats, dim=1)
        self.floor = (weight / scale).floor() + zero_point
        self.base = (self.floor.clamp(0, levels) - zero_point) * scale
        self.span = scale.masked_fill((self.floor < 0) | (self.floor >= levels), 0)
        self.alpha = nn.Parameter(initial_alpha(weight, scale))

    def forward(self, beta: float | None = None, strength: float = 0.0) -> Tensor:
        """Ŵ with soft rounding; with `beta`, backward adds the gradient of strength · `rounding_regularizer` to α's."""
        value: Tensor = _SoftWeight.apply(self.alpha, self.base, self.span, beta, strength)
        return value

    def hard(self) -> QuantizedWeight:
        """The quantized weight with the codes that were learned."""
        up = (self.alpha.detach() >= 0).float()
        codes = (self.floor + up).clamp(0, 2**self.stored.bits - 1)
        return replace(self.stored, codes=codes.to(torch.int16))


class _SoftWeight(torch.autograd.Function):
    """base + h(α) · span with few passes over the weight: in small models they cost as much as the products."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, base: Tensor, span: Tensor, beta: float | None, strength: float) -> Tensor:
        sigmoid = alpha.sigmoid()
        stretched = sigmoid.mul(ZETA - GAMMA).add_(GAMMA)
        ctx.save_for_backward(sigmoid, stretched, span)
        ctx.beta, ctx.strength = beta, strength
        return torch.addcmul(base, stretched.clamp(0, 1), span)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sigmoid, stretched, span = ctx.saved_tensors
        of_h = gradient * span
        if ctx.beta is not None:
            distance = stretched.clamp(0, 1).mul_(2).sub_(1)
            # |d|^(β − 1): by base 2 in little more than half the time of pow; 0 gives 2^−∞ = 0.
            penalty = distance.abs().log2_().mul_(ctx.beta - 1).exp2_().copysign_(distance)
            of_h.sub_(penalty, alpha=2 * ctx.beta * ctx.strength)
        slope = torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1).mul_(ZETA - GAMMA)
        passed = torch.ops.aten.hardtanh_backward(of_h, stretched, 0.0, 1.0)  # dh / dα is zero where h is clamped
        return passed.mul_(slope), None, None, None, None


def rounding_regularizer(alpha: Tensor, beta: float) -> Tensor:
    """Σ (1 − |2h − 1|^β), which is 0 where every weight has decided, shape ()."""
    return (1 - (2 * rectified_sigmoid(alpha) - 1).abs().pow(beta)).sum()
