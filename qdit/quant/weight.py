"""Quantized weights: integer codes with the scales and zero points they are stored with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from qdit.core.affine import Granularity, dequantize, group, pack_codes, quantize, ungroup, unpack_codes
from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.grouping import check_group_size
from qdit.quant.ranges import Ranges
from qdit.quant.weight_kinds import UNIFORM, StoredWeight, register_weight_kind

WEIGHT_BITS = range(2, 9)


@register_weight_kind(UNIFORM)
@dataclass(frozen=True)
class QuantizedWeight(StoredWeight):
    """A weight (out, in) as codes 0 … 2^bits − 1 (int16); ŵ = (code − zero_point) · scale (Q-DiT Eq. 1).

    `scale` and `zero_point` (int16) are (rows, groups): rows is `out`, or 1 for one pair per tensor; groups are
    consecutive inputs. Symmetric quantization has zero_point 2^(bits − 1).
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": pack_codes(self.codes, self.bits), "scale": self.scale, "zero_point": self.zero_point}

    def facts(self) -> dict[str, Any]:
        return {"weight_bits": self.bits, "groups": list(self.scale.shape)}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        scale = tensors["scale"]
        if list(scale.shape) != facts["groups"]:
            raise CheckpointError(f"scale has shape {list(scale.shape)}, the configuration says {facts['groups']}")
        codes = unpack_codes(tensors["codes"], facts["weight_bits"], shape)
        return cls(codes, scale, tensors["zero_point"], facts["weight_bits"])

    @property
    def group_size(self) -> int | None:
        """Number of inputs in a group. None if rows are not divided into groups."""
        groups = self.scale.shape[1]
        return None if groups == 1 else self.codes.shape[1] // groups

    @property
    def granularity(self) -> Granularity:
        """Which weights share a scale: `tensor`, `channel` or `group(g)`; one group per row is `channel`."""
        if self.group_size is not None:
            return Granularity("group", self.group_size)
        return Granularity("tensor" if len(self.scale) < len(self.codes) else "channel")

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (out, in) that the codes mean, computed in float32 and converted to `dtype`."""
        grouped = group(self.codes, self.group_size).float()
        values = dequantize(grouped, self.scale.float()[..., None], self.zero_point.float()[..., None])
        return ungroup(values).to(dtype)


def quantize_weight(
    weight: Tensor,
    *,
    bits: int,
    granularity: Granularity,
    ranges: Ranges,
    symmetric: bool = False,
    scale_dtype: torch.dtype = torch.float16,
) -> QuantizedWeight:
    """Round a weight (out, in) to the nearest codes. `ranges` gets rows; all weights of a row share one scale.

    The scale is rounded to `scale_dtype` before the codes are computed. With `symmetric`, `ranges` must return zero
    point 0. If all weights of a row are zero, the scale is 1. If the stored scale would round to 0, it is the smallest
    positive number of its dtype, and the zero point is one of the codes. Raises ConfigError (bits, granularity) or
    CheckpointError (weights, scales or zero points that cannot be stored).
    """
    check_weight(weight, bits)
    rows = shared_rows(weight.detach().float(), granularity)
    scale, zero_point = ranges(rows, bits)
    zero_point = zero_point + 2 ** (bits - 1) if symmetric else zero_point
    empty = (rows == 0).all(dim=1, keepdim=True)
    scale = scale.masked_fill(empty, 1)
    zero_point = zero_point.masked_fill(empty, 2 ** (bits - 1) if symmetric else 0)
    zero_point = torch.where(vanishes(scale, scale_dtype), zero_point.clamp(0, 2**bits - 1), zero_point)
    scale, zero_point = stored_scale(scale, scale_dtype), stored_zero_point(zero_point)
    codes = quantize(rows, scale.float(), zero_point.float(), bits)
    pairs = 1 if granularity.kind == "tensor" else len(weight)
    return QuantizedWeight(
        codes=codes.to(torch.int16).reshape(weight.shape),
        scale=scale.reshape(pairs, -1),
        zero_point=zero_point.reshape(pairs, -1),
        bits=bits,
    )


def check_weight(weight: Tensor, bits: int) -> None:
    """Raise ConfigError unless `weight` is a matrix and can have `bits`; CheckpointError unless it is finite."""
    if bits not in WEIGHT_BITS:
        raise ConfigError(f"weight_bits {bits}: allowed are {WEIGHT_BITS[0]} to {WEIGHT_BITS[-1]}, or 16 for none")
    if weight.ndim != 2:
        raise ConfigError(f"a weight of shape {tuple(weight.shape)} is not (out, in): flatten convolutions first")
    if not weight.isfinite().all():
        count = int((~weight.isfinite()).sum())
        raise CheckpointError(f"weight has {count} NaN or infinite values: load intact weights")


def shared_rows(weight: Tensor, granularity: Granularity) -> Tensor:
    """Reshape a weight (out, in) to rows (R, n), so that all weights of a row share one scale and zero point."""
    match granularity.kind:
        case "tensor":
            return weight.reshape(1, -1)
        case "channel":
            return weight
        case "group":
            size = granularity.group_size or 0
            check_group_size(size, weight.shape[1], "weight")
            return weight.reshape(-1, size)
        case kind:
            raise ConfigError(f"granularity {kind} of a weight: allowed are tensor, channel, group(<size>)")


def smallest_scale(dtype: torch.dtype) -> float:
    """Return the smallest positive number of a dtype (a subnormal number)."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def vanishes(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return which scales `dtype` rounds to 0. This happens for weights close to zero."""
    return (scale >= 0) & (scale.to(dtype) == 0)


def stored_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert scales to `dtype`, in which they are stored.

    A scale that would become 0 becomes the smallest positive number. Raises CheckpointError if a scale is too large,
    not finite or negative.
    """
    stored = scale.to(dtype).masked_fill(vanishes(scale, dtype), smallest_scale(dtype))
    bad = ~((stored > 0) & stored.isfinite())
    if bad.any():
        raise CheckpointError(
            f"scale {float(scale[bad][0]):g} cannot be stored as {str(dtype).removeprefix('torch.')}, whose positive"
            f" numbers go from {smallest_scale(dtype):.3g} to {torch.finfo(dtype).max:g}: the weights are too large;"
            " rescale them, or clip the outlier"
        )
    return stored


def stored_zero_point(zero_point: Tensor) -> Tensor:
    """Convert zero points to int16; raise CheckpointError if a zero point does not fit."""
    limits = torch.iinfo(torch.int16)
    bad = ~((zero_point >= limits.min) & (zero_point <= limits.max))
    if bad.any():
        raise CheckpointError(
            f"zero_point {float(zero_point[bad][0]):g} does not fit int16 ({limits.min} to {limits.max}): the values"
            " that share it lie too far from zero; use a range that includes zero"
        )
    return zero_point.to(torch.int16)
