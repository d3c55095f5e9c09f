"""Adam for the activation scales of one unit of reconstruction."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from qdit.kernels.learning import BETAS, EPSILON
from qdit.quant.adam import Adam

FEW = 32
"""Most scales whose steps Python computes."""


class Scales:
    """Adam for the activation scales of one unit of reconstruction. All scales lie in one tensor and stay positive.

    On a CPU the steps of a few scales are computed in plain Python, since one operation of torch takes longer.
    """

    def __init__(self, scales: Sequence[nn.Parameter]) -> None:
        self.parameters = list(scales)
        if not self.parameters:
            return
        self.values = nn.Parameter(torch.cat([scale.detach().flatten() for scale in self.parameters]))
        sizes = [scale.numel() for scale in self.parameters]
        for scale, share in zip(self.parameters, self.values.detach().split(sizes), strict=True):
            scale.data = share.view_as(scale)
        few = self.values.device.type == "cpu" and self.values.numel() <= FEW
        self.few = FewAdam(self.values.detach().numpy()) if few else None
        self.adam = Adam([self.values])

    def step(self, rate: float) -> None:
        """Update the scales once from their stored gradients, then delete the gradients.

        If a step would make a scale zero or negative, the scale is halved instead. This happens for inputs close to
        zero.
        """
        if not self.parameters:
            return
        if self.few is not None:
            self.few.step(rate, [number for scale in self.parameters for number in gradients_of(scale)])
        else:
            self._step_of_torch(rate)
        for scale in self.parameters:
            scale.grad = None

    def _step_of_torch(self, rate: float) -> None:
        gradients = [torch.zeros_like(scale) if scale.grad is None else scale.grad for scale in self.parameters]
        self.values.grad = torch.cat([gradient.flatten() for gradient in gradients])
        before = self.values.detach().clone()
        self.adam.step(rate)
        with torch.no_grad():
            self.values.copy_(torch.where(self.values <= 0, before / 2, self.values))  # a NaN stays, and is refused

    def are_positive(self) -> bool:
        """Whether all scales are positive and finite."""
        return not self.parameters or bool((self.values.isfinite() & (self.values > 0)).all())


def gradients_of(scale: nn.Parameter) -> list[float]:
    """Return the stored gradients of a scale's numbers; zeros if no gradient is stored."""
    return [0.0] * scale.numel() if scale.grad is None else scale.grad.flatten().tolist()


class FewAdam:
    """Adam for a few numbers in a numpy array, in plain Python: beta1 0.9, beta2 0.999, epsilon 1e-8."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.steps = values, 0
        self.means, self.squares = [0.0] * len(values), [0.0] * len(values)

    def step(self, rate: float, gradients: Sequence[float]) -> None:
        """Update all values once from their gradients, one gradient for each value."""
        self.steps += 1
        share = rate / (1 - BETAS[0] ** self.steps)
        root = math.sqrt(1 - BETAS[1] ** self.steps)
        for index, (before, gradient) in enumerate(zip(self.values.tolist(), gradients, strict=True)):
            mean = self.means[index] = BETAS[0] * self.means[index] + (1 - BETAS[0]) * gradient
            square = self.squares[index] = BETAS[1] * self.squares[index] + (1 - BETAS[1]) * gradient * gradient
            after = before - share * mean / (math.sqrt(square) / root + EPSILON)
            self.values[index] = before / 2 if after <= 0 else after  # a NaN stays, and is refused
