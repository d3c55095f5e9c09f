"""Adam for the activation scales of a unit."""

from collections.abc import Sequence

import torch
from torch import nn

from qdit.quant.adam import Adam


class Scales:
    """Adam for the activation scales of a unit. They lie in one tensor and stay positive."""

    def __init__(self, scales: Sequence[nn.Parameter]) -> None:
        self.parameters = list(scales)
        if not self.parameters:
            return
        self.values = nn.Parameter(torch.cat([scale.detach().flatten() for scale in self.parameters]))
        shares = self.values.detach().split([scale.numel() for scale in self.parameters])
        for scale, share in zip(self.parameters, shares, strict=True):
            scale.data = share.view_as(scale)
        self.adam = Adam([self.values])

    def step(self, rate: float) -> None:
        """Take one step with the stored gradients, then drop them.

        If a step would make a scale zero or negative, the scale is halved instead. This happens for inputs close to
        zero.
        """
        if not self.parameters:
            return
        gradients = [torch.zeros_like(scale) if scale.grad is None else scale.grad for scale in self.parameters]
        self.values.grad = torch.cat([gradient.flatten() for gradient in gradients])
        before = self.values.detach().clone()
        self.adam.step(rate)
        with torch.no_grad():
            self.values.copy_(torch.where(self.values <= 0, before / 2, self.values))  # a NaN stays, and is refused
        for scale in self.parameters:
            scale.grad = None

    def are_positive(self) -> bool:
        """Whether all scales are positive and finite."""
        return not self.parameters or bool((self.values.isfinite() & (self.values > 0)).all())
