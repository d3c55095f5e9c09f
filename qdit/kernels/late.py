"""LayerNorm and GELU that are put off: on GPUs, the next layer computes them in the pass that quantizes.

The functions here decide at every call, from the tensors, whether a kernel can do this. So one prepared model works on
every device. Where no kernel can, the LayerNorm or the GELU is computed immediately, with the same bits as in a model
that does not use this module.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.kernels.dispatch import computed, takes_late
from qdit.kernels.fused import modulated_norm
from qdit.kernels.inputs import GeluInput, LateInput, ModulatedInput


def late_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor | LateInput | None:
    """Return LN(x)(1 + scale) + shift as an input that the next layer computes; None where no kernel can."""
    late = ModulatedInput(x, shift, scale)
    return late if not torch.compiler.is_compiling() and takes_late(late) else None


def late_or_fused_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor | LateInput | None:
    """Return `late_norm`; where no kernel can compute it later, the result of `qdit.kernels.fused.modulated_norm`."""
    late = late_norm(x, shift, scale)
    return modulated_norm(x, shift, scale) if late is None else late


def gelu(x: Tensor, *, late: bool) -> Tensor | LateInput:
    """Compute GELU(x) in the tanh form; with `late`, leave this to the next layer, where a kernel can do it."""
    if late and not torch.compiler.is_compiling() and takes_late(GeluInput(x)):
        return GeluInput(x)
    return F.gelu(x, approximate="tanh")


class LateGelu(nn.GELU):
    """GELU as a module that leaves its computation to the next layer, where a kernel can do it (`gelu`, late=True).

    `defer_unprepared` puts it into the MLPs of a model that is not prepared for inference.
    """

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor | LateInput:  # type: ignore[override]
        return gelu(x, late=True)


def values_of(x: Tensor | LateInput) -> Tensor:
    """Return the values of a layer's input; compute them if they are not computed yet."""
    return x if isinstance(x, Tensor) else computed(x)
