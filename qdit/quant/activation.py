"""Activation quantizers, simulated: dynamic (ranges of the tensor at hand) and static (calibrated ranges).

Each is a module with a `spec` (plain JSON) and its tensors as buffers; `build_activation` is the inverse.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qdit.affine import fake_quantize, group, minmax_asymmetric, minmax_symmetric, ungroup
from qdit.errors import CheckpointError, ConfigError

Sharing = Literal["token", "sample", "tensor"]
"""Which rows share a group's range: each token has its own, all tokens of a sample, or the whole batch."""


def group_extremes(groups: Tensor) -> tuple[Tensor, Tensor]:
    """(min, max) over the last dimension, which is dropped.

    By repeated halving: elementwise minimum of long slices is several times faster on CPUs than a reduction over a
    short last dimension.
    """
    low = high = groups
    size = groups.shape[-1]
    while size > 1 and size % 2 == 0:
        size //= 2
        low = torch.minimum(low[..., :size], low[..., size:])
        high = torch.maximum(high[..., :size], high[..., size:])
    return low.amin(dim=-1), high.amax(dim=-1)


class DynamicActivation(nn.Module):
    """Min-max ranges per (token, group) of the input at hand (Q-DiT Eq. 7–8).

    The released code shares a range among the `group_size` consecutive channels of one token; `sharing="sample"` is
    the literal text of the paper (all tokens of a sample). `include_zero=False` is the released range rule.
    """

    def __init__(
        self,
        *,
        bits: int,
        group_size: int | None,
        sharing: Sharing = "token",
        include_zero: bool = True,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        if sharing not in get_args(Sharing):
            raise ConfigError(f"sharing {sharing!r}: allowed are {', '.join(get_args(Sharing))}")
        self.bits, self.group_size, self.sharing = bits, group_size, sharing
        self.include_zero, self.symmetric = include_zero, symmetric

    def spec(self) -> dict[str, Any]:
        """Everything needed to build this quantizer again."""
        return {
            "kind": "dynamic",
            "bits": self.bits,
            "group_size": self.group_size,
            "sharing": self.sharing,
            "include_zero": self.include_zero,
            "symmetric": self.symmetric,
        }

    def forward(self, x: Tensor) -> Tensor:
        groups = group(x, self.group_size)
        low, high = group_extremes(groups)
        if self.sharing != "token":
            dims = tuple(range(0 if self.sharing == "tensor" else 1, low.dim() - 1))
            if dims:
                low, high = low.amin(dims, keepdim=True), high.amax(dims, keepdim=True)
        if self.symmetric:
            scale, zero_point = minmax_symmetric(low, high, self.bits)
        else:
            scale, zero_point = minmax_asymmetric(low, high, self.bits, include_zero=self.include_zero)
        quantized = fake_quantize(
            groups, scale.unsqueeze(-1), zero_point.unsqueeze(-1), self.bits, symmetric=self.symmetric
        )
        return ungroup(quantized)


class StaticActivation(nn.Module):
    """Calibrated (scale, zero_point) per tensor (one group) or per group of input channels: shape (groups,)."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, *, bits: int, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale.float().reshape(-1))
        self.register_buffer("zero_point", zero_point.reshape(-1).to(torch.int32))

    def spec(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"kind": "static", "bits": self.bits, "groups": self.scale.numel()}

    def forward(self, x: Tensor) -> Tensor:
        groups = group(x, x.shape[-1] // self.scale.numel())
        zero_point = self.zero_point.to(x.dtype)
        return ungroup(fake_quantize(groups, self.scale[:, None], zero_point[:, None], self.bits))


Activation = DynamicActivation | StaticActivation
"""Any activation quantizer: a module from (…, d) to (…, d) with `bits` and `spec()`."""


def build_activation(spec: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Activation | None:
    """Quantizer of a spec; `tensors` are its buffers (`scale`, `zero_point`). None stays None."""
    if spec is None:
        return None
    options = {key: value for key, value in spec.items() if key != "kind"}
    if spec.get("kind") == "dynamic":
        return DynamicActivation(**options)
    if spec.get("kind") == "static":
        return StaticActivation(bits=spec["bits"], scale=tensors["scale"], zero_point=tensors["zero_point"])
    raise CheckpointError(f"activation quantizer kind {spec.get('kind')!r}: allowed are dynamic, static")
