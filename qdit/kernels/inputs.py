"""Inputs of a linear that are described but not computed yet: a modulated LayerNorm, or the GELU after a linear.

A kernel on a GPU computes such an input in the same pass that quantizes it, so it is never written to memory. The
methods `computed()` define the values, in torch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
"""Epsilon of the LayerNorms of DiT and STDiT3."""


@dataclass(frozen=True)
class ModulatedInput:
    """A modulated LayerNorm, not computed yet: LN(x)(1 + scale) + shift of x (N, T, D), shift and scale (N, D)."""

    x: Tensor
    shift: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape (N, T, D) of the values."""
        return self.x.shape

    def tensors(self) -> tuple[Tensor, ...]:
        """Return x, shift and scale."""
        return self.x, self.shift, self.scale

    def computed(self) -> Tensor:
        """Compute the values, in the type of x."""
        normed = F.layer_norm(self.x, (self.x.shape[-1],), eps=EPSILON)
        return torch.addcmul(self.shift[:, None], normed, 1 + self.scale[:, None]).to(self.x.dtype)


@dataclass(frozen=True)
class GeluInput:
    """A GELU (tanh form) of x (…, D), not computed yet."""

    x: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape (…, D) of the values."""
        return self.x.shape

    def tensors(self) -> tuple[Tensor, ...]:
        """Return x, the only tensor."""
        return (self.x,)

    def computed(self) -> Tensor:
        """Compute the values, in the type of x."""
        return F.gelu(self.x, approximate="tanh")


LateInput = ModulatedInput | GeluInput
