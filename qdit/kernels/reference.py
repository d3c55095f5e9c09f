"""The definition of the grouped kernels in plain torch; every compiled backend is tested against it.

y = Σ_g sx·sw·Σ_k (qx − zx)(qw − zw) + b with integer inner sums (spec/kernels.md §3a), where qx, sx and zx are made of
the input at hand for each (token, group) by Q-DiT Eq. 7–8 with zero in the range and a clamped zero point.
"""

import torch
from torch import Tensor

from qdit.affine import (
    dequantize,
    fake_quantize,
    group,
    group_extremes,
    minmax_asymmetric,
    minmax_symmetric,
    quantize,
    ungroup,
)
from qdit.errors import ConfigError, Unsupported
from qdit.kernels.packing import PackedWeight, unpack_weight


def quantize_groups(
    x: Tensor, group_size: int | None, bits: int, *, symmetric: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(codes (…, groups, g), scale (…, groups), zero_point (…, groups)) of x (…, d), all floating point.

    Codes are 0 … 2^bits − 1; symmetric ones are shifted by their zero_point 2^(bits − 1).
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
    """Quantize and dequantize x (…, d) with a range of its own for each (token, group)."""
    codes, scale, zero_point = quantize_groups(x, group_size, bits, symmetric=symmetric)
    return ungroup(dequantize(codes, scale[..., None], zero_point[..., None]))


def fake_quantize_static(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize x (…, d) with given scale and zero_point of shape (groups,), a divisor of d."""
    zero_point = zero_point.to(x.dtype)
    if scale.numel() == 1:
        return fake_quantize(x, scale, zero_point, bits)
    size = check_static(x, scale, zero_point)
    return fake_quantize(x, scale.repeat_interleave(size), zero_point.repeat_interleave(size), bits)


def check_static(x: Tensor, scale: Tensor, zero_point: Tensor) -> int:
    """Columns of each static group; raises ConfigError where shapes do not fit."""
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
) -> Tensor:
    """(…, width) → (…, outputs), float32; sums over groups are kept in float64 and rounded once.

    Raises ConfigError (shapes, bits) and Unsupported where a number is not finite.
    """
    check_linear(x, weight, bias, activation_bits)
    rows = x.reshape(-1, weight.width).float()
    codes, scale, zero_point = quantize_groups(rows, weight.group_size, activation_bits, symmetric=symmetric)
    if not (rows.isfinite().all() and scale.isfinite().all()):
        raise not_finite()
    weight_codes, weight_zero, weight_scale = unpack_weight(weight)
    left = (codes - zero_point[..., None]).double().movedim(1, 0)
    right = (group(weight_codes, weight.group_size) - weight_zero[..., None]).double().permute(1, 2, 0)
    y = torch.zeros(len(rows), weight.outputs, dtype=torch.float64, device=x.device)
    for index in range(weight.groups):
        scales = scale[:, index, None].double() * weight_scale[None, :, index].double()
        y += (left[index] @ right[index]) * scales
    y = (y if bias is None else y + bias.double()).float()
    if not y.isfinite().all():
        raise not_finite()
    return y.reshape(*x.shape[:-1], weight.outputs)


def check_linear(x: Tensor, weight: PackedWeight, bias: Tensor | None, activation_bits: int) -> None:
    """Raise ConfigError unless the operands of `grouped_linear` fit each other."""
    if x.ndim < 1 or x.shape[-1] != weight.width:
        raise ConfigError(f"input of shape {tuple(x.shape)} for a weight of shape {weight.shape}: the last must agree")
    if bias is not None and tuple(bias.shape) != (weight.outputs,):
        raise ConfigError(f"bias of shape {tuple(bias.shape)} for {weight.outputs} outputs")
    check_bits(activation_bits)


def check_bits(bits: int) -> None:
    """Raise ConfigError unless activations can have `bits`."""
    if not 2 <= bits <= 8:
        raise ConfigError(f"activation_bits {bits}: the kernels take 2 to 8")


def not_finite() -> Unsupported:
    """What is raised in the place of a result with infinities or NaN."""
    return Unsupported("grouped linear: the input or the result is not finite in float32; use the simulated mode")
