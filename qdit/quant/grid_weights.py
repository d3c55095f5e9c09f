"""Weights whose allowed values are not evenly spaced: MX and NVFP4 blocks, floating-point elements, and codebooks.

A block is consecutive inputs of one output. MX (OCP) and NVFP4 (NVIDIA) are formats of tensor cores. Here they are
simulated: the weight is dequantized once, and the product is computed in floating point.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from qdit.core.affine import Granularity, group, pack_codes, ungroup
from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.grouping import check_group_size
from qdit.quant.floats import (
    E2M1,
    E4M3,
    LARGEST_SCALE_CODE,
    float_format,
    mx_scale,
    nvfp4_scale,
    nvfp4_tensor_scale,
    scale_of,
)
from qdit.quant.weight import check_weight, shared_rows, stored_scale
from qdit.quant.weight_kinds import StoredWeight, float_tensor, register_weight_kind, require_tensor, unpack

MX_BLOCK, NVFP4_BLOCK = 32, 16
"""Elements of a block in the definitions of the two formats."""


@register_weight_kind("mx")
@dataclass(frozen=True)
class MxWeight(StoredWeight):
    """A weight in OCP MX: elements of a small float format, and one E8M0 scale for each block of inputs.

    `codes` (out, in) are uint8 codes of the format `element`. `scale` (out, blocks) are E8M0 codes, uint8. Element e2m1
    with blocks of 32 is MXFP4: 4.25 bits for each weight.
    """

    codes: Tensor
    scale: Tensor
    element: str
    no_integer_reason = "no kernel multiplies MX blocks"

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Number of bits of an element."""
        return float_format(self.element).bits

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def block_size(self) -> int:
        """Number of inputs in a block."""
        return self.codes.shape[1] // self.scale.shape[1]

    def dequantize(self) -> Tensor:
        values = group(float_format(self.element).decode(self.codes), self.block_size)
        return ungroup(values * scale_of(self.scale)[..., None])

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": pack_codes(self.codes, self.bits), "scale": self.scale}

    def facts(self) -> dict[str, Any]:
        return {"element": self.element, "block_size": self.block_size}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        form = float_format(facts["element"])
        scale = require_tensor(tensors, "scale", torch.uint8, (shape[0], blocks_of(shape, facts["block_size"])))
        if int(scale.max()) > LARGEST_SCALE_CODE:
            raise CheckpointError("a block scale has code 255, which is NaN in E8M0; quantize again")
        codes = unpack(tensors, form.bits, shape)
        form.check(codes)
        return cls(codes, scale, form.name)


@register_weight_kind("nvfp4")
@dataclass(frozen=True)
class NvFp4Weight(StoredWeight):
    """A weight in NVFP4: E2M1 elements, one E4M3 scale for each block of inputs, and one float32 scale for the tensor.

    `codes` (out, in) and `scale` (out, blocks) are uint8 codes; `tensor_scale` is (). With blocks of 16 a weight takes
    4.5 bits.
    """

    codes: Tensor
    scale: Tensor
    tensor_scale: Tensor
    bits = E2M1.bits
    no_integer_reason = "no kernel multiplies NVFP4 blocks"

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def block_size(self) -> int:
        """Number of inputs in a block."""
        return self.codes.shape[1] // self.scale.shape[1]

    def dequantize(self) -> Tensor:
        scale = E4M3.decode(self.scale) * self.tensor_scale
        return ungroup(group(E2M1.decode(self.codes), self.block_size) * scale[..., None])

    def tensors(self) -> dict[str, Tensor]:
        codes = pack_codes(self.codes, E2M1.bits)
        return {"codes": codes, "scale": self.scale, "tensor_scale": self.tensor_scale}

    def facts(self) -> dict[str, Any]:
        return {"block_size": self.block_size}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        scale = require_tensor(tensors, "scale", torch.uint8, (shape[0], blocks_of(shape, facts["block_size"])))
        E4M3.check(scale)
        if int(scale.max()) > 127:
            raise CheckpointError("a block scale of NVFP4 is negative; quantize again")
        return cls(unpack(tensors, E2M1.bits, shape), scale, float_tensor(tensors, "tensor_scale", ()))


@register_weight_kind("float")
@dataclass(frozen=True)
class FloatWeight(StoredWeight):
    """A weight in a small float format, with float16 scales per tensor, output channel or group of inputs.

    `codes` (out, in) are uint8 codes of the format `element`; `scale` is (rows, groups), as in `QuantizedWeight`.
    """

    codes: Tensor
    scale: Tensor
    element: str
    no_integer_reason = "no kernel multiplies floating-point codes"

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Number of bits of an element."""
        return float_format(self.element).bits

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def dequantize(self) -> Tensor:
        return times_scale(float_format(self.element).decode(self.codes), self.scale)

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": pack_codes(self.codes, self.bits), "scale": self.scale}

    def facts(self) -> dict[str, Any]:
        return {"element": self.element, "scales": list(self.scale.shape)}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        form = float_format(facts["element"])
        codes, scale = unpack(tensors, form.bits, shape), scales_of(facts, tensors, shape)
        form.check(codes)
        return cls(codes, scale, form.name)


@register_weight_kind("codebook")
@dataclass(frozen=True)
class CodebookWeight(StoredWeight):
    """A weight whose codes are indices in a table; float16 scales per tensor, output channel or group of inputs.

    ŵ = values[code] · scale. `values` (2^bits,) are float32, ascending, and the same for the whole weight.
    """

    codes: Tensor
    scale: Tensor
    values: Tensor
    no_integer_reason = "no kernel multiplies codes of a codebook"

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Number of bits of a code."""
        return len(self.values).bit_length() - 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def dequantize(self) -> Tensor:
        return times_scale(self.values[self.codes.long()], self.scale)

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": pack_codes(self.codes, self.bits), "scale": self.scale, "values": self.values}

    def facts(self) -> dict[str, Any]:
        return {"code_bits": self.bits, "scales": list(self.scale.shape)}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        bits = facts["code_bits"]
        values = float_tensor(tensors, "values", (2**bits,))
        return cls(unpack(tensors, bits, shape), scales_of(facts, tensors, shape), values)


def mx_weight(weight: Tensor, *, element: str = "e2m1", block_size: int = MX_BLOCK) -> MxWeight:
    """Round a weight (out, in) to MX blocks by the conversion of the specification (OCP MX v1.0, §6.3).

    ConfigError if `block_size` does not divide the inputs; CheckpointError for weights that are not finite.
    """
    form = float_format(element)
    check_weight(weight, form.bits)
    blocks = grouped(weight, block_size, f"MX {element}")
    scale = mx_scale(blocks.abs().amax(dim=-1), form)
    return MxWeight(ungroup(form.encode(blocks / scale_of(scale)[..., None])), scale, element)


def nvfp4_weight(weight: Tensor, *, block_size: int = NVFP4_BLOCK) -> NvFp4Weight:
    """Round a weight (out, in) to NVFP4; errors as in `mx_weight`."""
    check_weight(weight, E2M1.bits)
    blocks = grouped(weight, block_size, "NVFP4")
    largest = blocks.abs().amax(dim=-1)
    tensor_scale = nvfp4_tensor_scale(largest.amax())
    scale = nvfp4_scale(largest, tensor_scale)
    codes = E2M1.encode(blocks / (E4M3.decode(scale) * tensor_scale)[..., None])
    return NvFp4Weight(ungroup(codes), scale, tensor_scale)


def float_weight(weight: Tensor, *, element: str = "e4m3", granularity: Granularity | None = None) -> FloatWeight:
    """Round a weight (out, in) to a float format. A scale maps its largest weight to the format's largest number.

    The granularity says which weights share a scale; None means one scale for each output channel.
    """
    form, shared = float_format(element), granularity or Granularity("channel")
    check_weight(weight, form.bits)
    rows = shared_rows(weight.detach().float(), shared)
    scale = row_scales(rows, form.largest)
    codes = form.encode(rows / scale.float()).reshape(weight.shape)
    return FloatWeight(codes, scale.reshape(1 if shared.kind == "tensor" else len(weight), -1), element)


def codebook_weight(weight: Tensor, values: Tensor, *, granularity: Granularity | None = None) -> CodebookWeight:
    """Round a weight (out, in) to the nearest values of a table. A scale maps its largest weight to the last value.

    `values` has 4 to 256 entries (a power of two), in ascending order. The granularity says which weights share a
    scale; None means one scale for each output channel. Raises ConfigError for other tables.
    """
    bits = len(values).bit_length() - 1
    if values.ndim != 1 or len(values) != 2**bits or not (values.diff() > 0).all() or not values.isfinite().all():
        raise ConfigError(
            f"codebook of shape {tuple(values.shape)}: it needs 4 to 256 finite values, a power of two, in ascending"
            " order"
        )
    check_weight(weight, bits)
    shared, values = granularity or Granularity("channel"), values.detach().float().to(weight.device)
    rows = shared_rows(weight.detach().float(), shared)
    scale = row_scales(rows, float(values.abs().max()))
    codes = torch.bucketize(rows / scale.float(), (values[1:] + values[:-1]) / 2).to(torch.uint8)
    scale = scale.reshape(1 if shared.kind == "tensor" else len(weight), -1)
    return CodebookWeight(codes.reshape(weight.shape), scale, values)


def grouped(weight: Tensor, block_size: int, what: str) -> Tensor:
    """Reshape a weight (out, in) to blocks (out, blocks, block_size). `what` names the weight in errors."""
    check_group_size(block_size, weight.shape[1], what)
    return group(weight.detach().float(), block_size)


def row_scales(rows: Tensor, largest: float) -> Tensor:
    """Compute float16 scales (R, 1) that map the largest |w| of each row (R, n) to `largest`; 1 for a row of zeros."""
    extreme = rows.abs().amax(dim=1, keepdim=True)
    return stored_scale((extreme / largest).masked_fill(extreme == 0, 1), torch.float16)


def times_scale(values: Tensor, scale: Tensor) -> Tensor:
    """Multiply values (out, in) by their scales (rows, groups), where rows is out or 1."""
    size = None if scale.shape[1] == 1 else values.shape[1] // scale.shape[1]
    return ungroup(group(values, size) * scale.float()[..., None])


def blocks_of(shape: tuple[int, int], block_size: int) -> int:
    """Return the number of blocks in a row of this shape; raise CheckpointError if the size does not divide the row."""
    if not isinstance(block_size, int) or block_size < 1 or shape[1] % block_size:
        raise CheckpointError(f"block_size {block_size!r} does not divide {shape[1]} inputs; quantize again")
    return shape[1] // block_size


def scales_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """Read a file's float16 scales (rows, groups). CheckpointError unless rows is out or 1 and groups divides in."""
    rows, groups = facts["scales"]
    if rows not in (1, shape[0]) or groups < 1 or shape[1] % groups:
        raise CheckpointError(f"scales of shape {[rows, groups]} do not fit a weight {shape}; quantize again")
    return require_tensor(tensors, "scale", torch.float16, (rows, groups))
