"""Triton kernels for the simulated mode: they quantize and dequantize in one pass.

A LayerNorm or a GELU before the quantizer can be a part of the pass (`qdit.kernels.triton_inputs`). With `narrow` the
kernels read half precision or float32, compute in float32, and write half precision; the bits are those of separate
conversions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from qdit.kernels.inputs import LateInput
from qdit.kernels.triton_inputs import ELEMENTS, before_of, entered, nothing_before, stored
from qdit.kernels.triton_quantize import block_rows, codes_of, ranges


@triton.jit
def fake_groups_kernel(
    x,
    y,
    statistics,
    shift,
    factor,
    groups,
    width,
    tokens,
    shift_line,
    factor_line,
    levels,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    EXACT: tl.constexpr,
    BEFORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Quantize and dequantize `groups` consecutive groups of SIZE values. Each program computes BLOCK of them.

    With EXACT all steps are in float32, whatever the types of x and y. Otherwise they are in the type of y. With BEFORE
    the values of rows of `width` are changed first (`qdit.kernels.triton_inputs.entered`).
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDE)
    at = row[:, None] * SIZE + column[None, :]
    mask = (row < groups)[:, None] & (column < SIZE)[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if BEFORE > 0:
        value = entered(
            value,
            (row * SIZE // width)[:, None],
            (row * SIZE % width).to(tl.int32)[:, None] + column[None, :],
            mask,
            statistics,
            shift,
            factor,
            groups * SIZE // width,
            tokens,
            shift_line,
            factor_line,
            BEFORE,
            x.dtype.element_ty,
        )
    OUT: tl.constexpr = y.dtype.element_ty
    TYPE: tl.constexpr = tl.float32 if EXACT else OUT
    scale, zero = ranges(value, mask, levels, SYMMETRIC, TYPE)
    code = codes_of(value, tl.broadcast_to(scale[:, None], (BLOCK, WIDE)), zero[:, None], levels, TYPE)
    tl.store(y + at, ((code - zero[:, None]) * scale[:, None]).to(OUT), mask=mask)


@triton.jit
def fake_static_kernel(
    x,
    y,
    scale,
    zero,
    statistics,
    shift,
    factor,
    count,
    width,
    size,
    tokens,
    shift_line,
    factor_line,
    levels,
    EXACT: tl.constexpr,
    BEFORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Quantize and dequantize with given scale and zero point.

    Rows have `width` columns; each `size` columns share one pair. With EXACT all steps are in float32. With BEFORE the
    values are changed first (`qdit.kernels.triton_inputs.entered`).
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = first + tl.arange(0, BLOCK)
    mask = at < count
    position = (first % width).to(tl.int32) + tl.arange(0, BLOCK)
    group = position % width // size
    OUT: tl.constexpr = y.dtype.element_ty
    TYPE: tl.constexpr = tl.float32 if EXACT else OUT
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if BEFORE > 0:
        value = entered(
            value,
            (first // width).to(tl.int32) + position // width,
            position % width,
            mask,
            statistics,
            shift,
            factor,
            count // width,
            tokens,
            shift_line,
            factor_line,
            BEFORE,
            x.dtype.element_ty,
        )
    step = tl.load(scale + group, mask=mask, other=1.0).to(tl.float32)
    offset = tl.load(zero + group, mask=mask, other=0.0).to(tl.float32)
    code = codes_of(value, step, offset, levels, TYPE)
    tl.store(y + at, (stored(code - offset, TYPE) * step).to(OUT), mask=mask)


def fake_quantize_groups(
    x: Tensor | LateInput, group_size: int, bits: int, *, symmetric: bool, narrow: torch.dtype | None = None
) -> Tensor:
    """Quantize and dequantize contiguous x (…, d), one range per token and group, in the type of x.

    With `narrow` it is computed in float32 and rounded to the type `narrow`.
    """
    shape = x.shape
    x, before = (x, nothing_before(x)) if isinstance(x, Tensor) else before_of(x)
    y = torch.empty(shape, dtype=narrow or x.dtype, device=x.device)
    groups, wide = x.numel() // group_size, triton.next_power_of_2(group_size)
    block = block_rows(wide, groups)
    fake_groups_kernel[(triton.cdiv(groups, block),)](
        *(x, y, *before[1:4], groups, shape[-1], *before[4:], float(2**bits - 1)),
        SIZE=group_size,
        WIDE=wide,
        SYMMETRIC=symmetric,
        EXACT=narrow is not None,
        BEFORE=before.number,
        BLOCK=block,
        enable_fp_fusion=False,
    )
    return y


def fake_quantize_static(
    x: Tensor | LateInput, scale: Tensor, zero_point: Tensor, bits: int, *, narrow: torch.dtype | None = None
) -> Tensor:
    """Quantize and dequantize contiguous x (…, d) with scale and zero_point (groups,), in the type of x / scale.

    With `narrow` it is computed in float32 and rounded to the type `narrow`.
    """
    shape = x.shape
    x, before = (x, nothing_before(x)) if isinstance(x, Tensor) else before_of(x)
    y = torch.empty(shape, dtype=narrow or torch.result_type(x, scale), device=x.device)
    width = shape[-1]
    fake_static_kernel[(triton.cdiv(x.numel(), ELEMENTS // 4),)](
        *(x, y, scale.contiguous(), zero_point.to(torch.float32 if narrow else x.dtype).contiguous()),
        *(*before[1:4], x.numel(), width, width // scale.numel(), *before[4:], float(2**bits - 1)),
        EXACT=narrow is not None,
        BEFORE=before.number,
        BLOCK=ELEMENTS // 4,
        enable_fp_fusion=False,
    )
    return y
