"""Simulated activation quantizers with a scale and a zero point (affine quantizers).

Dynamic quantizers compute ranges in every forward pass. Static quantizers have ranges from calibration data.

Every activation quantizer is a module with `bits`, a `spec` (plain JSON) and its tensors as buffers.
`qdit.quant.activation_kinds.build_activation` builds the quantizer again from both. Quantizers that depend on the
timestep are in `qdit.quant.temporal`. Quantizers that are not affine are in `qdit.quant.nonlinear`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from qdit.core.affine import fake_quantize, group, group_extremes, minmax_asymmetric, minmax_symmetric, ungroup
from qdit.core.errors import ConfigError
from qdit.core.grouping import check_group_size
from qdit.kernels import ops  # noqa: F401 - registers the operations of `traced`
from qdit.kernels.dispatch import fake_quantize_groups, fake_quantize_static, narrow_groups, narrow_static
from qdit.kernels.inputs import LateInput
from qdit.kernels.late import values_of
from qdit.quant.kinds import Kinds

ACTIVATIONS = Kinds("activation quantizer")
register_activation_kind = ACTIVATIONS.register
"""Class decorator: `@register_activation_kind("name")` over a subclass of `Activation`, also in a method's file."""

Sharing = Literal["token", "sample", "tensor"]
"""Which rows share a group's range: each token has its own, all tokens of a sample, or the whole batch."""


class Activation(nn.Module):
    """Interface of an activation quantizer: its forward pass quantizes and dequantizes x (…, d) and keeps the shape.

    A registered class also has a class method `build(spec, tensors)`. If `needs_context` is true, it has `build(spec,
    tensors, context)`, where `context` is the model's `StepContext` (it knows the current timesteps).
    """

    kind: ClassVar[str]
    """Name in a checkpoint; the decorator sets it."""
    needs_context: ClassVar[bool] = False
    bits: int

    def spec(self) -> dict[str, Any]:
        """Plain JSON from which this quantizer can be built again: its `kind` and all values that are not tensors."""
        raise NotImplementedError

    def narrowed(self, x: Tensor | LateInput, dtype: torch.dtype) -> Tensor:
        """Quantize and dequantize x in float32, then round to `dtype`, the type in which the next product computes.

        Some classes do this in one pass over memory, with the same bits. If x is a LayerNorm or a GELU that is not
        computed yet, the same pass computes it.
        """
        quantized: Tensor = self(values_of(x).float())
        return quantized.to(dtype)


def in_float32(activation: Activation, x: Tensor) -> Tensor:
    """Quantize and dequantize x of any precision; the result is float32 for half-precision inputs.

    An input in half precision is converted to float32 first, so that a code means the same value in every precision.
    """
    return activation(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)


def input_of_product(activation: Activation, x: Tensor | LateInput) -> Tensor:
    """Quantize and dequantize the input of a linear or convolution.

    Under autocast on a GPU the product rounds its inputs to half precision. Then the result is in half precision
    already.
    """
    values = x if isinstance(x, Tensor) else x.x
    half = torch.get_autocast_dtype("cuda") if values.is_cuda and torch.is_autocast_enabled("cuda") else None
    if torch.compiler.is_compiling():
        return traced(activation, values_of(x), half or torch.float32)
    if half is not None:
        return activation.narrowed(x, half)
    return in_float32(activation, x) if isinstance(x, Tensor) else activation.narrowed(x, torch.float32)


def traced(activation: Activation, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Quantize and dequantize x in float32 and round to `dtype`, with operations that torch.compile can trace.

    If the quantizer has a registered operation of `torch.ops.qdit`, this is called, otherwise the operations of the
    module.
    """
    if type(activation) is DynamicActivation and activation.sharing == "token" and activation.include_zero:
        size = activation.group_size or x.shape[-1]
        quantize = torch.ops.qdit.fake_quantize_groups
        return quantize(x, size, activation.bits, activation.symmetric, dtype=dtype)
    if type(activation) is StaticActivation and activation.per == "group":
        static = torch.ops.qdit.fake_quantize_static
        return static(x, activation.scale, activation.zero_point, activation.bits, dtype=dtype)
    return in_float32(activation, x).to(dtype)


@register_activation_kind("dynamic")
class DynamicActivation(Activation):
    """Quantizer with a min-max range for each token and group, computed in every forward pass (Q-DiT Eq. 7–8).

    In the released code, `group_size` consecutive channels of one token share a range. With `sharing="sample"`, as in
    the text of the paper, all tokens of a sample share it. With `include_zero=False` the range need not contain zero,
    as in the release.
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
        return {
            "kind": "dynamic",
            "bits": self.bits,
            "group_size": self.group_size,
            "sharing": self.sharing,
            "include_zero": self.include_zero,
            "symmetric": self.symmetric,
        }

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from its `spec`. It stores no tensors."""
        return cls(**{key: value for key, value in spec.items() if key != "kind"})

    def forward(self, x: Tensor) -> Tensor:
        if self.sharing == "token" and self.include_zero:
            return fake_quantize_groups(x, self.group_size, self.bits, symmetric=self.symmetric)
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

    def narrowed(self, x: Tensor | LateInput, dtype: torch.dtype) -> Tensor:
        is_plain = type(self).forward is DynamicActivation.forward
        if is_plain and self.sharing == "token" and self.include_zero:
            return narrow_groups(x, self.group_size, self.bits, dtype, symmetric=self.symmetric)
        return super().narrowed(x, dtype)


@register_activation_kind("static")
class StaticActivation(Activation):
    """Quantizer with calibrated ranges: one scale and zero point per tensor, group of channels or attention head.

    `scale` and `zero_point` have shape (groups,), or (heads,) for operands (N, heads, T, d) with `per="head"`.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, *, bits: int, scale: Tensor, zero_point: Tensor, per: Literal["group", "head"] = "group"
    ) -> None:
        super().__init__()
        self.bits, self.per = bits, per
        # Copies, since sites may not share tensors in a file: queries, keys and values can have one range.
        self.register_buffer("scale", scale.detach().float().reshape(-1).clone())
        self.register_buffer("zero_point", zero_point.detach().reshape(-1).to(torch.int32, copy=True))

    def spec(self) -> dict[str, Any]:
        return {"kind": "static", "bits": self.bits, "per": self.per, "count": self.scale.numel()}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from a spec and its tensors."""
        return cls(bits=spec["bits"], per=spec["per"], scale=tensors["scale"], zero_point=tensors["zero_point"])

    def forward(self, x: Tensor) -> Tensor:
        if self.per == "group":
            return fake_quantize_static(x, self.scale, self.zero_point, self.bits)
        scale, zero_point = self.scale, self.zero_point.to(x.dtype)
        return fake_quantize(x, self.broadcast(scale, x), self.broadcast(zero_point, x), self.bits)

    def narrowed(self, x: Tensor | LateInput, dtype: torch.dtype) -> Tensor:
        if type(self).forward is StaticActivation.forward and self.per == "group":
            return narrow_static(x, self.scale, self.zero_point, self.bits, dtype)
        return super().narrowed(x, dtype)

    def broadcast(self, values: Tensor, x: Tensor) -> Tensor:
        """Repeat `values`, one for each group or head, so that they broadcast against x."""
        if self.per == "head":
            return values[:, None, None]
        width = x.shape[-1]
        if width % values.numel():
            check_group_size(max(1, width // values.numel()), width, "static activation")
        return values.repeat_interleave(width // values.numel())

    def rescaled(self, scale: Tensor) -> "StaticActivation":
        """Return a copy of this quantizer with other scales and the same zero points."""
        return StaticActivation(bits=self.bits, scale=scale, zero_point=self.zero_point, per=self.per)

    def entered(self, x: Tensor) -> Tensor:
        """Return the values that the quantizer rounds: x itself. A subclass may transform x before the rounding."""
        return x

    def left(self, x: Tensor) -> Tensor:
        """Undo `entered` on the rounded values."""
        return x


@register_activation_kind("factored")
class FactoredActivation(StaticActivation):
    """Static quantizer that multiplies by `factor` before rounding and divides by it after (V in PTQ4DiT).

    Folding divided the channels of the operand x (N, heads, T, d) by `factor`: (heads, 1, d), or (1, 1, d) if all heads
    share it. With this quantizer V is rounded as it was before the folding. There is one scale and one zero point.
    """

    factor: Tensor

    def __init__(self, *, bits: int, scale: Tensor, zero_point: Tensor, factor: Tensor) -> None:
        super().__init__(bits=bits, scale=scale, zero_point=zero_point)
        self.register_buffer("factor", factor.detach().float())

    def spec(self) -> dict[str, Any]:
        return {"kind": "factored", "bits": self.bits, "heads": self.factor.shape[0], "width": self.factor.shape[-1]}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the quantizer from a spec and its tensors."""
        names = ("scale", "zero_point", "factor")
        return cls(bits=spec["bits"], **{name: tensors[name] for name in names})

    def forward(self, x: Tensor) -> Tensor:
        return self.left(fake_quantize(self.entered(x), self.scale, self.zero_point.to(x.dtype), self.bits))

    def rescaled(self, scale: Tensor) -> "FactoredActivation":
        return FactoredActivation(bits=self.bits, scale=scale, zero_point=self.zero_point, factor=self.factor)

    def entered(self, x: Tensor) -> Tensor:
        return x * self.factor

    def left(self, x: Tensor) -> Tensor:
        return x / self.factor
