"""Inputs of a linear that have not been computed yet: a modulated LayerNorm, or the GELU of a linear before it.

A kernel on a GPU computes them in the same pass that quantizes them, so they are never written to memory. `computed()`
is the definition in torch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
"""Epsilon of the LayerNorms of DiT and STDiT3."""


@dataclass(frozen=True)
class ModulatedInput:
    """LN(x)(1 + scale) + shift of x (N, T, D), shift and scale (N, D); in the type of x."""

    x: Tensor
    shift: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        """(N, T, D)."""
        return self.x.shape

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return self.x, self.shift, self.scale

    def computed(self) -> Tensor:
        """The values, in the type of x."""
        normed = F.layer_norm(self.x, (self.x.shape[-1],), eps=EPSILON)
        return torch.addcmul(self.shift[:, None], normed, 1 + self.scale[:, None]).to(self.x.dtype)


@dataclass(frozen=True)
class GeluInput:
    """GELU (with tanh) of x (…, D), in the type of x."""

    x: Tensor

    @property
    def shape(self) -> torch.Size:
        """(…, D)."""
        return self.x.shape

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (self.x,)

    def computed(self) -> Tensor:
        """The values, in the type of x."""
        return F.gelu(self.x, approximate="tanh")


LateInput = ModulatedInput | GeluInput
