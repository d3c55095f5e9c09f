"""Adam for the activation scales of a unit."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from qdit.kernels.learning import BETAS, EPSILON
from qdit.quant.adam import Adam


class Scales:
    """Adam for the activation scales of a unit. They lie in one tensor and stay positive.

    On a CPU numpy computes the steps. They are a few numbers: an operation of torch takes 5 to 20 times as long.
    """

    def __init__(self, scales: Sequence[nn.Parameter]) -> None:
        self.parameters = list(scales)
        if not self.parameters:
            return
        self.values = nn.Parameter(torch.cat([scale.detach().flatten() for scale in self.parameters]))
        sizes = [scale.numel() for scale in self.parameters]
        for scale, share in zip(self.parameters, self.values.detach().split(sizes), strict=True):
            scale.data = share.view_as(scale)
        plain = self.values.device.type == "cpu" and self.values.dtype == torch.float32
        self.few = FewAdam(self.values.detach().numpy()) if plain else None
        self.adam = Adam([self.values])

    def step(self, rate: float) -> None:
        """Take one step with the stored gradients, then drop them.

        If a step would make a scale zero or negative, the scale is halved instead. This happens for inputs close to
        zero.
        """
        if not self.parameters:
            return
        if self.few is not None:
            self.few.step(rate, [gradient_of(scale) for scale in self.parameters])
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


def gradient_of(scale: nn.Parameter) -> np.ndarray:
    """The stored gradient of a scale as a flat array; zeros if there is none."""
    return np.zeros(scale.numel(), np.float32) if scale.grad is None else scale.grad.numpy().reshape(-1)


class FewAdam:
    """Steps of Adam for a few float32 numbers in memory of numpy: beta1 0.9, beta2 0.999, epsilon 1e-8."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.steps = values, 0
        self.mean, self.square = np.zeros_like(values), np.zeros_like(values)

    def step(self, rate: float, gradients: Sequence[np.ndarray]) -> None:
        """Take one step. The gradients are those of consecutive shares of the values."""
        gradient = np.concatenate(gradients)
        self.steps += 1
        self.mean += np.float32(0.1) * (gradient - self.mean)
        self.square *= np.float32(0.999)
        self.square += np.float32(0.001) * gradient * gradient
        root = np.float32(math.sqrt(1 - BETAS[1] ** self.steps))
        change = np.float32(rate / (1 - BETAS[0] ** self.steps)) * self.mean
        after = self.values - change / (np.sqrt(self.square) / root + np.float32(EPSILON))
        # a NaN stays, and is refused
        self.values[:] = np.where(after <= 0, self.values / 2, after)
