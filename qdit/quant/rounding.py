"""AdaRound: learned rounding of weights with fixed (scale, zero_point) (Nagel et al., 2020)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from qdit.kernels.dispatch import learning_backend
from qdit.kernels.learning import RoundingState
from qdit.quant.adam import Adam
from qdit.quant.weight import QuantizedWeight

ZETA, GAMMA = 1.1, -0.1
"""Ends of the stretched sigmoid."""


def initial_alpha(weight: Tensor, scale: Tensor) -> Tensor:
    """Compute the start value α₀: h(α₀), the `rectified_sigmoid`, is the fractional part of weight / scale.

    So training begins at the unrounded weight.
    """
    ratio = weight / scale
    fraction = ratio - ratio.floor()
    return -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """Compute h(α) = clamp(1.2 σ(α) − 0.1, 0, 1), the fraction by which a weight is rounded up."""
    return (alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def round_weight(weight: Tensor, alpha: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, hard: bool) -> Tensor:
    """Compute Ŵ from ⌊W/s⌋ + h(α), differentiable in α. With `hard`, h is 1 if α ≥ 0 and otherwise 0."""
    up = (alpha >= 0).to(weight.dtype) if hard else rectified_sigmoid(alpha)
    codes = ((weight / scale).floor() + up + zero_point).clamp(0, 2**bits - 1)
    return (codes - zero_point) * scale


class SoftRounding:
    """The learned rounding of one weight: an α for each element, and the scale and zero point of the quantized weight.

    The soft weight of `round_weight` is base + h(α) · span. `base` is the value of the floor code. `span` is the scale,
    or 0 if the floor code is already clamped. `weight` holds the soft weight as a leaf tensor of autograd. `gradient`
    turns the gradient of `weight` into the gradient of α.
    """

    def __init__(self, weight: Tensor, stored: QuantizedWeight) -> None:
        self.stored = stored
        levels, repeats = 2**stored.bits - 1, weight.shape[1] // stored.scale.shape[1]
        scale = stored.scale.float().repeat_interleave(repeats, dim=1)
        zero_point = stored.zero_point.float().repeat_interleave(repeats, dim=1)
        self.floor = (weight / scale).floor() + zero_point
        self.base = (self.floor.clamp(0, levels) - zero_point) * scale
        self.span = scale.masked_fill((self.floor < 0) | (self.floor >= levels), 0)
        self.alpha = nn.Parameter(initial_alpha(weight, scale))
        self.weight = nn.Parameter(torch.empty_like(self.base))
        self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """Recompute the soft weight from the current α, in place."""
        self.sigmoid = self.alpha.detach().sigmoid()
        self.stretched = self.sigmoid.mul(ZETA - GAMMA).add_(GAMMA)
        torch.addcmul(self.base, self.stretched.clamp(0, 1), self.span, out=self.weight.detach())

    @torch.no_grad()
    def gradient(self, of_weight: Tensor, beta: float | None = None, strength: float = 0.0) -> Tensor:
        """Compute the gradient of α from the gradient of the soft weight. With `beta`, add that of the regularizer.

        The regularizer is strength · `rounding_regularizer`.
        """
        of_h = of_weight * self.span
        if beta is not None:
            distance = self.stretched.clamp(0, 1).mul_(2).sub_(1)
            # |d|^(β − 1): by base 2 in little more than half the time of pow; 0 gives 2^−∞ = 0.
            penalty = distance.abs().log2_().mul_(beta - 1).exp2_().copysign_(distance)
            of_h.sub_(penalty, alpha=2 * beta * strength)
        slope = torch.addcmul(self.sigmoid, self.sigmoid, self.sigmoid, value=-1).mul_(ZETA - GAMMA)
        # dh / dα is zero where h is clamped
        return torch.ops.aten.hardtanh_backward(of_h, self.stretched, 0.0, 1.0).mul_(slope)

    def open(self) -> Tensor:
        """Count the elements, shape (), whose h is neither 0 nor 1: they have not decided how they are rounded.

        The gradient of a decided element is 0.
        """
        return ((self.stretched > 0) & (self.stretched < 1)).sum()

    def hard(self) -> QuantizedWeight:
        """Return the quantized weight with the learned codes."""
        up = (self.alpha.detach() >= 0).float()
        codes = (self.floor + up).clamp(0, 2**self.stored.bits - 1)
        return replace(self.stored, codes=codes.to(torch.int16))


class RoundingSteps:
    """Adam for all learned roundings of a unit of reconstruction.

    The compiled library computes it if possible, otherwise torch. Both compute the same method. The compiled steps
    leave out decided elements (h = 0 or 1). The gradient of such an element stays 0, and its last step moved α
    outwards. So neither h nor the code can change.
    """

    def __init__(self, roundings: Sequence[SoftRounding]) -> None:
        self.roundings = list(roundings)
        self.backend = learning_backend(*(rounding.alpha for rounding in self.roundings)) if self.roundings else None
        self.states: list[RoundingState] = []
        self.adam = Adam([rounding.alpha for rounding in self.roundings])
        if self.backend is not None:
            self.states = [RoundingState.of(r.alpha.detach(), r.base, r.span) for r in self.roundings]
            self.counts = [len(state) for state in self.states]
        self.steps = 0

    def step(self, rate: float, beta: float | None, strength: float) -> None:
        """Take one Adam step with the stored gradients of the soft weights, delete them, and renew the soft weights."""
        self.steps += 1
        for number, rounding in enumerate(self.roundings):
            of_weight, rounding.weight.grad = rounding.weight.grad, None
            if of_weight is None:
                continue
            if self.backend is None:
                rounding.alpha.grad = rounding.gradient(of_weight, beta, strength)
            else:
                self.counts[number] = self.states[number].step(
                    self.backend,
                    of_weight.contiguous(),
                    rounding.weight.detach(),
                    steps=self.steps,
                    rate=rate,
                    power=0.0 if beta is None else beta - 1,
                    pull=0.0 if beta is None else 2 * beta * strength,
                )
        if self.backend is None:
            self.adam.step(rate)
            for rounding in self.roundings:
                rounding.renew()

    def open(self) -> int:
        """Count the elements that have not decided (h is neither 0 nor 1)."""
        return sum(self.counts) if self.backend is not None else sum(int(r.open()) for r in self.roundings)

    def settle(self) -> None:
        """Copy the learned α from the memory of the compiled steps into the roundings; nothing to do for torch."""
        if self.backend is not None:
            for state in self.states:
                state.settle(self.backend)


def rounding_regularizer(alpha: Tensor, beta: float) -> Tensor:
    """Compute AdaRound's regularizer Σ (1 − |2h − 1|^β), shape (). It is 0 if h is 0 or 1 for every weight."""
    return (1 - (2 * rectified_sigmoid(alpha) - 1).abs().pow(beta)).sum()
