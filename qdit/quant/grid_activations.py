"""Dynamic activation quantizers to float formats: MX blocks, NVFP4 blocks, and FP8 or FP4 with float32 scales."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from qdit.core.affine import group, group_extremes, ungroup
from qdit.quant.activation import Activation, register_activation_kind
from qdit.quant.floats import E2M1, E4M3, float_format, mx_scale, nvfp4_scale, nvfp4_tensor_scale, scale_of
from qdit.quant.grid_weights import MX_BLOCK, NVFP4_BLOCK


@register_activation_kind("mx")
class MxActivation(Activation):
    """OCP MX quantizer: each block of `block_size` channels of a token has an E8M0 scale from its maximum (§6.3)."""

    def __init__(self, *, element: str = "e2m1", block_size: int = MX_BLOCK) -> None:
        super().__init__()
        self.form, self.block_size = float_format(element), block_size
        self.bits = self.form.bits

    def spec(self) -> dict[str, Any]:
        return {"kind": "mx", "bits": self.bits, "element": self.form.name, "block_size": self.block_size}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from its `spec`. It stores no tensors."""
        return cls(element=spec["element"], block_size=spec["block_size"])

    def forward(self, x: Tensor) -> Tensor:
        blocks = group(x, self.block_size)
        scale = scale_of(mx_scale(largest_of(blocks), self.form))[..., None]
        return ungroup(self.form.round(blocks / scale).mul_(scale))


@register_activation_kind("nvfp4")
class NvFp4Activation(Activation):
    """NVFP4 quantizer: E2M1 elements, an E4M3 scale for each block of channels of a token, and one float32 scale more.

    The float32 scale multiplies all block scales of a token and comes from the token's largest value. So the output of
    a sample does not depend on the other samples of its batch. If `tensor_scale` is given, the float32 scale is this
    calibrated number. It is then the same for the whole tensor, as NVIDIA defines the format.
    """

    def __init__(self, *, block_size: int = NVFP4_BLOCK, tensor_scale: float | None = None) -> None:
        super().__init__()
        self.bits, self.block_size, self.tensor_scale = E2M1.bits, block_size, tensor_scale

    def spec(self) -> dict[str, Any]:
        sizes = {"block_size": self.block_size, "tensor_scale": self.tensor_scale}
        return {"kind": "nvfp4", "bits": self.bits, **sizes}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from its `spec`. It stores no tensors."""
        return cls(block_size=spec["block_size"], tensor_scale=spec["tensor_scale"])

    def forward(self, x: Tensor) -> Tensor:
        blocks = group(x, self.block_size)
        largest = largest_of(blocks)
        if self.tensor_scale is None:
            above = nvfp4_tensor_scale(largest.amax(dim=-1, keepdim=True))
        else:
            above = torch.full_like(largest, self.tensor_scale)
        scale = (E4M3.decode(nvfp4_scale(largest, above)) * above)[..., None]
        return ungroup(E2M1.round(blocks / scale).mul_(scale))


@register_activation_kind("float")
class FloatActivation(Activation):
    """Quantizer to a small float format (FP8 or FP4) with a float32 scale for each token, or for each token and group.

    The scale maps the largest value of a token or group to the largest number of the format.
    """

    def __init__(self, *, element: str = "e4m3", group_size: int | None = None) -> None:
        super().__init__()
        self.form, self.group_size = float_format(element), group_size
        self.bits = self.form.bits

    def spec(self) -> dict[str, Any]:
        return {"kind": "float", "bits": self.bits, "element": self.form.name, "group_size": self.group_size}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from its `spec`. It stores no tensors."""
        return cls(element=spec["element"], group_size=spec["group_size"])

    def forward(self, x: Tensor) -> Tensor:
        groups = group(x, self.group_size)
        smallest = torch.finfo(torch.float32).tiny
        scale = (largest_of(groups)[..., None] / self.form.largest).clamp(min=smallest)
        return ungroup(self.form.round(groups / scale).mul_(scale))


def largest_of(groups: Tensor) -> Tensor:
    """Return the largest absolute value along the last dimension, which is dropped."""
    low, high = group_extremes(groups)
    return torch.maximum(low.abs(), high.abs())
