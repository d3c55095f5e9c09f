"""Triton kernels that quantize activations to codes for the grouped linear (`triton_fake` has those of the simulation).

The codes equal those of the reference on CPUs. Therefore divisions are exact (`div_rn`; a plain `/` is approximate on
GPUs) and rounding is half to even. Values of float16 and bfloat16 are rounded after every step, as in torch. NaN and
infinity give the same result as in the reference. For codes they make the scale NaN, and so every output of the row.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qdit.kernels.inputs import LateInput
from qdit.kernels.parts import Step
from qdit.kernels.triton_inputs import ELEMENTS, before_of, entered, nothing_before, stored
from qdit.kernels.triton_transform import encoded, steps_of
from qdit.kernels.triton_weight import padded_size


@triton.jit
def rounded(value):
    """Round half to even. Numbers from 2^23 on are integers already."""
    size = tl.abs(value)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)
    return tl.where(value < 0, -whole, whole)


@triton.jit
def clamped(value, low, high):
    """Clamp values; NaN stays NaN, as in torch.clamp."""
    return tl.where(value < low, low, tl.where(value > high, high, value))


@triton.jit
def ranges(x, mask, levels, SYMMETRIC: tl.constexpr, TYPE: tl.constexpr):
    """Compute scale and zero point of each row of x, float32, in TYPE steps (Q-DiT Eq. 7–8 with zero in the range)."""
    undefined = tl.max((mask & (x != x)).to(tl.int32), axis=1) > 0
    low = tl.min(tl.where(mask, x, float("inf")), axis=1)
    high = tl.max(tl.where(mask, x, float("-inf")), axis=1)
    none = tl.zeros_like(low)
    smallest = stored(none + 1e-5, TYPE)
    if SYMMETRIC:
        size = tl.maximum(tl.abs(low), tl.abs(high))
        zero = none + (levels + 1) * 0.5
        scale = stored(tl.div_rn(tl.where(size < smallest, smallest, size), zero - 1), TYPE)
    else:
        low, high = tl.where(low > 0, 0.0, low), tl.where(high < 0, 0.0, high)
        size = stored(high - low, TYPE)
        scale = stored(tl.div_rn(tl.where(size < smallest, smallest, size), none + levels), TYPE)
        zero = clamped(rounded(stored(tl.div_rn(-low, scale), TYPE)), 0.0, levels)
    return tl.where(undefined, float("nan"), scale), zero


@triton.jit
def codes_of(x, scale, zero, levels, TYPE: tl.constexpr):
    """Compute codes: clamp(round(x / scale) + zero) to 0 … levels, each step in TYPE."""
    quotient = rounded(stored(tl.div_rn(x, scale), TYPE))
    return clamped(stored(quotient + zero, TYPE), 0.0, levels)


@triton.jit
def codes_kernel(
    x,
    first_values,
    second_values,
    third_values,
    given_scale,
    given_zero,
    statistics,
    shift,
    factor,
    codes,
    scale,
    zero,
    totals,
    rows,
    width,
    line,
    tokens,
    shift_line,
    factor_line,
    levels,
    BEFORE: tl.constexpr,
    STEPS: tl.constexpr,
    SPAN: tl.constexpr,
    SHARED: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    WIDE: tl.constexpr,
    GIVEN: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    TOTALS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write codes − 128 of BLOCK rows and SPAN inputs, after a transform's STEPS (`qdit.kernels.triton_transform`).

    A range covers SHARED inputs, in groups of SIZE padded to PADDED bytes. codes (rows, line) is int8; its padding
    holds zero − 128. scale and zero − 128 are (ranges, rows) float32. With TOTALS, Σ(code − zero) of each group is
    written too, (groups, rows) float32. BEFORE is what is computed before the transform (`entered`).
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    span = tl.program_id(1)
    column = tl.arange(0, WIDE)
    inside = column < SPAN
    mask = (row < rows)[:, None] & inside[None, :]
    value = tl.load(x + row[:, None] * width + span * SPAN + column[None, :], mask=mask, other=0.0).to(tl.float32)
    value = entered(
        value,
        row[:, None],
        (span * SPAN + column)[None, :],
        mask,
        statistics,
        shift,
        factor,
        rows,
        tokens,
        shift_line,
        factor_line,
        BEFORE,
        x.dtype.element_ty,
    )
    value = steps_of(value, first_values, second_values, third_values, span * SPAN + column, inside, STEPS, BLOCK, WIDE)
    at = (span * (SPAN // SIZE) + column // SIZE) * PADDED + column % SIZE
    for number in tl.static_range(SPAN // SHARED):
        index = span * (SPAN // SHARED) + number
        here = mask
        if SPAN > SHARED:
            here = mask & (column // SHARED == number)[None, :]
        if GIVEN:
            none = tl.zeros((BLOCK,), tl.float32)
            step, offset = none + tl.load(given_scale + index), none + tl.load(given_zero + index)
        else:
            step, offset = ranges(value, here, levels, SYMMETRIC, tl.float32)
        endless = (tl.abs(value) <= 3.4028234663852886e38) == 0
        bad = (tl.max((here & endless).to(tl.int32), axis=1) > 0) | ((step <= 3.4028234663852886e38) == 0)
        code = codes_of(value, tl.broadcast_to(step[:, None], (BLOCK, WIDE)), offset[:, None], levels, tl.float32)
        code = tl.where(here & (bad == 0)[:, None], code, 0.0)
        tl.store(codes + row[:, None] * line + at[None, :], (code - 128).to(tl.int8), mask=here)
        target = index.to(tl.int64) * rows + row
        tl.store(scale + target, tl.where(bad, float("nan"), step), mask=row < rows)
        tl.store(zero + target, offset - 128, mask=row < rows)
        if PADDED > SIZE:
            padding_column = tl.arange(0, 128)
            pad = (offset - 128).to(tl.int8)[:, None] + tl.zeros((BLOCK, 128), tl.int8)
            for part in tl.static_range(SHARED // SIZE):
                first = (index * (SHARED // SIZE) + part) * PADDED + SIZE
                free = (row < rows)[:, None] & (padding_column < PADDED - SIZE)[None, :]
                tl.store(codes + row[:, None] * line + first + padding_column[None, :], pad, mask=free)
        if TOTALS:
            beyond = tl.where(here, code - offset[:, None], 0.0)
            for part in tl.static_range(SHARED // SIZE):
                group = number * (SHARED // SIZE) + part
                total = tl.sum(tl.where((column // SIZE == group)[None, :], beyond, 0.0), axis=1)
                group_at = (span * (SPAN // SIZE) + group).to(tl.int64)
                tl.store(totals + group_at * rows + row, total, mask=row < rows)


class Codes(NamedTuple):
    """Quantized rows, scales and zero points, as `codes_kernel` writes them. `totals` is None if not requested."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    totals: Tensor | None


def quantize_rows(
    x: Tensor | LateInput,
    bits: int,
    *,
    shared: int,
    size: int,
    symmetric: bool,
    static: tuple[Tensor, Tensor] | None,
    totals: bool,
    steps: Sequence[Step] = (),
    padded: int | None = None,
) -> Codes:
    """Quantize contiguous x (rows, width), or the LayerNorm or GELU of x. `shared` inputs have one range.

    These inputs are one or more groups of `size`, each of which takes `padded` bytes.
    """
    x, before = (x, nothing_before(x)) if isinstance(x, Tensor) else before_of(x)
    rows, width = x.shape
    padded = padded_size(size) if padded is None else padded
    number, values = encoded(steps, x)
    span = math.lcm(shared, *(step.size for step in steps if step.kind == "hadamard"))
    wide, count = triton.next_power_of_2(span), width // shared
    codes = torch.empty((rows, width // size * padded), dtype=torch.int8, device=x.device)
    scale, zero = (torch.empty((count, rows), dtype=torch.float32, device=x.device) for _ in range(2))
    sums = torch.empty((width // size, rows), dtype=torch.float32, device=x.device) if totals else None
    ranges_in = (scale, zero) if static is None else tuple(t.float().expand(count).contiguous() for t in static)
    block = block_rows(wide, rows)
    codes_kernel[(triton.cdiv(rows, block), width // span)](
        *(x, *values, *ranges_in, *before[1:4], codes, scale, zero, scale if sums is None else sums),
        *(rows, width, codes.shape[1], *before[4:], float(2**bits - 1)),
        BEFORE=before.number,
        STEPS=number,
        SPAN=span,
        SHARED=shared,
        SIZE=size,
        PADDED=padded,
        WIDE=wide,
        GIVEN=static is not None,
        SYMMETRIC=symmetric,
        TOTALS=totals,
        BLOCK=block,
        enable_fp_fusion=False,
    )
    return Codes(codes, scale, zero, sums)


def quantize_groups(
    x: Tensor | LateInput, group_size: int, bits: int, *, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (…, d) uint8, scale (…, groups) and zero_point (…, groups), which `grouped_linear` multiplies."""
    flat = x.reshape(-1, x.shape[-1]) if isinstance(x, Tensor) else x
    quantized = quantize_rows(
        flat, bits, shared=group_size, size=group_size, symmetric=symmetric, static=None, totals=False
    )
    codes = quantized.codes.view(len(quantized.codes), -1, padded_size(group_size))[..., :group_size].int() + 128
    groups = (*x.shape[:-1], x.shape[-1] // group_size)
    return (
        codes.to(torch.uint8).reshape(x.shape),
        quantized.scale.T.reshape(groups),
        (quantized.zero.T + 128).reshape(groups),
    )


def block_rows(wide: int, rows: int) -> int:
    """Return how many rows of `wide` values one program computes."""
    return max(1, min(ELEMENTS // wide, triton.next_power_of_2(rows)))
