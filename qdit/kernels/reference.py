"""Reference of the grouped kernels in plain torch. It defines their results; tests compare every backend with it.

y = Σ_g sx·sw·Σ_k (qx − zx)(qw − zw) + b over groups g and inputs k of a group, with integer inner sums. The codes qx,
scale sx and zero point zx come from the input, for each token and group, by Q-DiT Eq. 7–8; qw, sw and zw are those of
the weight. The range contains zero, and the zero point is clamped.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from qdit.core.affine import (
    dequantize,
    fake_quantize,
    group,
    group_extremes,
    minmax_asymmetric,
    minmax_symmetric,
    quantize,
    ungroup,
)
from qdit.core.errors import ConfigError, Unsupported
from qdit.kernels.packing import PackedWeight, unpack_weight
from qdit.kernels.parts import NO_PARTS, Parts, check_parts, factors, transformed

LARGEST_ZERO = 255
"""Largest zero point of an activation: zero points are multiplied as 16-bit pairs."""

_LOOKED_AT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Zero points of activations → the version that was in 0 … 255."""


def quantize_groups(
    x: Tensor, group_size: int | None, bits: int, *, symmetric: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize x (…, d): codes (…, groups, g), scale (…, groups), zero_point (…, groups), all floating point.

    Codes are 0 … 2^bits − 1. Symmetric codes are shifted by their zero_point 2^(bits − 1).
    """
    groups = group(x, group_size)
    low, high = group_extremes(groups)
    if symmetric:
        scale, zero_point = minmax_symmetric(low, high, bits)
        zero_point = zero_point + 2 ** (bits - 1)
    else:
        scale, zero_point = minmax_asymmetric(low, high, bits)
    return quantize(groups, scale[..., None], zero_point[..., None], bits), scale, zero_point


def fake_quantize_groups(x: Tensor, group_size: int | None, bits: int, *, symmetric: bool = False) -> Tensor:
    """Quantize and dequantize x (…, d). Each (token, group) has its own range."""
    codes, scale, zero_point = quantize_groups(x, group_size, bits, symmetric=symmetric)
    return ungroup(dequantize(codes, scale[..., None], zero_point[..., None]))


def fake_quantize_static(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize x (…, d) with given scale and zero_point (groups,); the number of groups divides d."""
    zero_point = zero_point.to(x.dtype)
    if scale.numel() == 1:
        return fake_quantize(x, scale, zero_point, bits)
    size = check_static(x, scale, zero_point)
    return fake_quantize(x, scale.repeat_interleave(size), zero_point.repeat_interleave(size), bits)


def check_static(x: Tensor, scale: Tensor, zero_point: Tensor) -> int:
    """Return the number of channels that share a static range. Raises ConfigError if the shapes do not fit."""
    groups, width = scale.numel(), x.shape[-1]
    if scale.ndim > 1 or scale.shape != zero_point.shape or groups < 1 or width % groups:
        raise ConfigError(
            f"static scale {tuple(scale.shape)} and zero_point {tuple(zero_point.shape)} for width {width}:"
            " allowed is one pair, or one per group of columns"
        )
    return width // groups


def grouped_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    activation_bits: int = 8,
    symmetric: bool = False,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
    parts: Parts = NO_PARTS,
) -> Tensor:
    """Compute a grouped linear (…, width) → (…, outputs) in the type of x. Sums over groups are float64, rounded once.

    `input_group` inputs share a range; `static` gives this range. `parts` are a transform before the quantizer and a
    branch beside the product. Raises ConfigError (shapes, bits), and Unsupported if a number is not finite.
    """
    size = check_linear(x, weight, bias, activation_bits, input_group=input_group, static=static)
    check_parts(parts, weight.width, weight.outputs)
    rows = transformed(x.reshape(-1, weight.width), parts.steps)
    if static is None:
        codes, scale, zero_point = quantize_groups(rows, size, activation_bits, symmetric=symmetric)
    else:
        groups = group(rows, size)
        scale, zero_point = (t.float().expand(groups.shape[:-1]) for t in static)
        codes = quantize(groups, scale[..., None], zero_point[..., None], activation_bits)
    codes = group(codes.flatten(-2), weight.group_size)
    scale, zero_point = (t.repeat_interleave(size // weight.group_size, dim=-1) for t in (scale, zero_point))
    if not (rows.isfinite().all() and scale.isfinite().all()):
        raise not_finite()
    weight_codes, weight_zero, weight_scale = unpack_weight(weight)
    left = (codes - zero_point[..., None]).double().movedim(1, 0)
    right = (group(weight_codes, weight.group_size) - weight_zero[..., None]).double().permute(1, 2, 0)
    y = torch.zeros(len(rows), weight.outputs, dtype=torch.float64, device=x.device)
    for index in range(weight.groups):
        scales = scale[:, index, None].double() * weight_scale[None, :, index].double()
        y += (left[index] @ right[index]) * scales
    if parts.branch is not None:
        up, down = factors(parts.branch)
        y += rows.double() @ down.double().T @ up.double().T
    y = (y if bias is None else y + bias.double()).float().to(x.dtype)
    if not y.isfinite().all():
        raise not_finite()
    return y.reshape(*x.shape[:-1], weight.outputs)


def check_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    activation_bits: int,
    *,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
) -> int:
    """Return the number of inputs that share a range; ConfigError unless the arguments of `grouped_linear` fit."""
    if x.ndim < 1 or x.shape[-1] != weight.width:
        raise ConfigError(f"input of shape {tuple(x.shape)} for a weight of shape {weight.shape}: the last must agree")
    if bias is not None and tuple(bias.shape) != (weight.outputs,):
        raise ConfigError(f"bias of shape {tuple(bias.shape)} for {weight.outputs} outputs")
    check_bits(activation_bits)
    size = weight.group_size if input_group is None else input_group
    if static is not None:
        size = check_static(x, *static)
        check_zero_points(static[1])
    if size < 1 or size % weight.group_size or weight.width % size or input_group not in (None, size):
        raise ConfigError(
            f"input_group {size if input_group is None else input_group}: must divide the width {weight.width} and be a"
            f" multiple of the weight's group size {weight.group_size}, with one static pair for each"
        )
    return size


def check_zero_points(zero_point: Tensor) -> None:
    """Raise Unsupported unless activation zero points lie in 0 … 255.

    Reading a tensor makes the program wait for a GPU. So each tensor is checked only once, and again after a change.
    """
    version = 0 if zero_point.is_inference() else zero_point._version
    if _LOOKED_AT.get(zero_point) == version:
        return
    low, high = float(zero_point.min()), float(zero_point.max())
    if low < 0 or high > LARGEST_ZERO:
        raise Unsupported(f"activation zero_point from {low:g} to {high:g}: the integer kernels take 0 to 255")
    _LOOKED_AT[zero_point] = version


def check_bits(bits: int) -> None:
    """Raise ConfigError unless activations can have this number of bits."""
    if not 2 <= bits <= 8:
        raise ConfigError(f"activation_bits {bits}: the kernels take 2 to 8")


def not_finite() -> Unsupported:
    """Return the error to raise if a result has infinities or NaN."""
    return Unsupported("grouped linear: the input or the result is not finite; use the simulated mode")
