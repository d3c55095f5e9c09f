"""LayerNorm and GELU that the next layer computes in the pass that quantizes, where a kernel does so: on GPUs.

The functions here decide this at every call, from the tensors. So one prepared model works on every device. Elsewhere
the LayerNorm or the GELU is computed at once, with the same bits as in a model that never asks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.kernels.dispatch import computed, takes_late
from qdit.kernels.fused import modulated_norm
from qdit.kernels.inputs import GeluInput, LateInput, ModulatedInput


def late_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor | LateInput | None:
    """LN(x)(1 + scale) + shift as an input that the next layer computes; None where no kernel does so."""
    late = ModulatedInput(x, shift, scale)
    return late if not torch.compiler.is_compiling() and takes_late(late) else None


def late_or_fused_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor | LateInput | None:
    """As `late_norm`; where no kernel computes it later, the result of `qdit.kernels.fused.modulated_norm`."""
    late = late_norm(x, shift, scale)
    return modulated_norm(x, shift, scale) if late is None else late


def gelu(x: Tensor, *, late: bool) -> Tensor | LateInput:
    """GELU (with tanh) of x; with `late` as an input that the next layer computes, where a kernel does so."""
    if late and not torch.compiler.is_compiling() and takes_late(GeluInput(x)):
        return GeluInput(x)
    return F.gelu(x, approximate="tanh")


class LateGelu(nn.GELU):
    """`gelu(x, late=True)` as a module: for a model whose linears do not compute the GELU themselves."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor | LateInput:  # type: ignore[override]
        return gelu(x, late=True)


def values_of(x: Tensor | LateInput) -> Tensor:
    """The values of a layer's input, also of one that is not computed yet."""
    return x if isinstance(x, Tensor) else computed(x)
