"""Floating-point linear layers for inference on CPUs. oneDNN with prepacked weights computes them if torch has it.

torch's own `F.linear` uses MKL in float32. On some processors MKL reaches only half of the speed: once, on an AMD EPYC
with AVX-512, 90 against 200 GFLOP/s at the mini DiT's shapes. No benchmark command repeats this yet. The results differ
in rounding only.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.devices import device_after
from qdit.kernels.inputs import LateInput
from qdit.kernels.late import gelu as gelu_of

ROWS = 1024
"""Number of rows the packed layout is chosen for; any number works."""


@cache
def backend() -> str:
    """Return the name of the program that computes float32 linears on this CPU: `onednn` or `torch`."""
    if not torch.backends.mkldnn.is_available():
        return "torch"
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.eye(8), 8)
        product = torch.ops.mkldnn._linear_pointwise(torch.eye(8), weight, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return "torch"
    return "onednn" if torch.equal(product, torch.eye(8)) else "torch"


class DenseLinear(nn.Module):
    """Linear in floating point, for inference only: (…, in) → (…, out), float32. The weight is packed at the start.

    With `gelu` the tanh-GELU is computed in the same pass. With `late` too, the next layer computes the GELU where a
    kernel does so (`qdit.kernels.late`).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False, late: bool = False) -> None:
        super().__init__()
        self.gelu, self.late = gelu, late
        self.packs = backend() == "onednn" and weight.device.type == "cpu" and weight.dtype == torch.float32
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS) if self.packs else weight
        self.bias = bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DenseLinear":
        """Move weight and bias, also if they are no parameters. On another device than the CPU it is unpacked."""
        super()._apply(fn, recurse)
        device = device_after(fn, torch.empty(0, device=self.weight.device))
        if self.packs and device.type != "cpu":
            self.weight, self.packs = self.weight.to_dense(), False
        if not isinstance(self.weight, nn.Parameter) and not self.packs:
            self.weight = fn(self.weight)
        if self.bias is not None and not isinstance(self.bias, nn.Parameter):
            self.bias = fn(self.bias)
        return self

    def forward(self, x: Tensor) -> Tensor | LateInput:
        if self.packs:
            after: tuple[str, list[float], str] = ("gelu", [], "tanh") if self.gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *after)
        y = F.linear(x, self.weight, self.bias)
        return gelu_of(y, late=self.late) if self.gelu else y
