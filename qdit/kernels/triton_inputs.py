"""A modulated LayerNorm and the tanh-GELU in Triton, as separate kernels or as the first steps of one that quantizes.

In both cases the same function (`entered`) computes them, and before it the same kernel (`statistics_kernel`) computes
mean and deviation of a LayerNorm. So a fused quantizer gives exactly the codes of two separate passes. These are the
float32 operations; each is rounded once:

    LayerNorm  ((x − mean) · (1 / √(variance + 1e-6))) · (1 + scale) + shift
    GELU       x / (1 + exp(−2 √(2/π) (x + 0.044715 x³)))

1 + scale is rounded to the type of scale, and the result to the type of x, as torch rounds them.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qdit.kernels.inputs import EPSILON, GeluInput, LateInput, ModulatedInput

NONE, GELU, NORM = 0, 1, 2
"""Numbers of `BEFORE` in the kernels."""

ELEMENTS = 4096
"""Approximate number of elements of one program: 32 for each thread of 4 warps."""


@triton.jit
def stored(value, TYPE: tl.constexpr):
    """Round a float32 value to another data type; the result is float32 again."""
    return value.to(TYPE).to(tl.float32)


@triton.jit
def entered(
    value,
    row,
    column,
    mask,
    statistics,
    shift,
    factor,
    rows,
    tokens,
    shift_line,
    factor_line,
    BEFORE: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Compute a quantizer's input from `value` at `row` (ROWS, 1) and `column` (1 or ROWS, WIDE); 0 outside `mask`.

    BEFORE is 0 (the value itself), 1 (its GELU) or 2 (its modulated LayerNorm). statistics is (2, rows): mean and 1 /
    deviation. Each `tokens` rows share a row of shift and factor; `shift_line` and `factor_line` are the distances of
    these rows in memory.
    """
    if BEFORE == 1:
        inner = value + 0.044715 * (value * value * value)
        return stored(tl.div_rn(value, 1.0 + tl.exp(inner * -1.5957691216057308)), TYPE)
    elif BEFORE == 2:
        mean = tl.load(statistics + row, mask=row < rows, other=0.0)
        inverse = tl.load(statistics + rows + row, mask=row < rows, other=0.0)
        sample = row // tokens
        times = tl.load(factor + sample * factor_line + column, mask=mask, other=0.0).to(tl.float32)
        plus = tl.load(shift + sample * shift_line + column, mask=mask, other=0.0).to(tl.float32)
        result = (value - mean) * inverse * stored(times + 1.0, factor.dtype.element_ty) + plus
        return tl.where(mask, stored(result, TYPE), 0.0)
    else:
        return value


@triton.jit
def statistics_kernel(x, statistics, rows, width, epsilon, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Write statistics (2, rows): mean and 1 / √(variance + epsilon) of each row of x (rows, width), float32."""
    row, column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDE)
    mask = (row < rows)[:, None] & (column < width)[None, :]
    value = tl.load(x + row[:, None] * width + column[None, :], mask=mask, other=0.0).to(tl.float32)
    count = tl.zeros((BLOCK,), tl.float32) + width
    mean = tl.div_rn(tl.sum(value, axis=1), count)
    apart = tl.where(mask, value - mean[:, None], 0.0)
    variance = tl.div_rn(tl.sum(apart * apart, axis=1), count)
    inverse = tl.div_rn(tl.zeros((BLOCK,), tl.float32) + 1.0, tl.sqrt_rn(variance + epsilon))
    tl.store(statistics + row, mean, mask=row < rows)
    tl.store(statistics + rows + row, inverse, mask=row < rows)


@triton.jit
def inputs_kernel(
    x,
    y,
    statistics,
    shift,
    factor,
    rows,
    width,
    tokens,
    shift_line,
    factor_line,
    BEFORE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write y (rows, width), the modulated LayerNorm or the GELU of x, in the type of y."""
    row, column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDE)
    row, column = row[:, None], (tl.program_id(1) * WIDE + column)[None, :]
    mask = (row < rows) & (column < width)
    value = tl.load(x + row * width + column, mask=mask, other=0.0).to(tl.float32)
    value = entered(
        value,
        row,
        column,
        mask,
        statistics,
        shift,
        factor,
        rows,
        tokens,
        shift_line,
        factor_line,
        BEFORE,
        y.dtype.element_ty,
    )
    tl.store(y + row * width + column, value.to(y.dtype.element_ty), mask=mask)


class Before(NamedTuple):
    """What a kernel computes before it quantizes: nothing, a LayerNorm or a GELU.

    `number` says which (NONE, NORM or GELU). The other fields are arguments of the kernel function `entered`.
    """

    number: int
    statistics: Tensor
    shift: Tensor
    factor: Tensor
    tokens: int
    shift_line: int
    factor_line: int


def nothing_before(x: Tensor) -> Before:
    """Describe that nothing is computed before the quantizer; `x` fills the arguments that no kernel reads."""
    return Before(NONE, x, x, x, 1, 0, 0)


def before_of(late: LateInput) -> tuple[Tensor, Before]:
    """Return x as rows and what a kernel computes of them; the statistics of a LayerNorm are computed here."""
    rows = late.x.reshape(-1, late.x.shape[-1]).contiguous()
    if isinstance(late, GeluInput):
        return rows, nothing_before(rows)._replace(number=GELU)
    shift, factor = (t if t.stride(-1) == 1 else t.contiguous() for t in (late.shift, late.scale))
    statistics = statistics_of(rows)
    return rows, Before(NORM, statistics, shift, factor, late.x.shape[1], shift.stride(0), factor.stride(0))


def statistics_of(x: Tensor) -> Tensor:
    """Compute (2, rows) float32: mean and 1 / √(variance + 1e-6) of each row of contiguous x (rows, width)."""
    rows, width = x.shape
    statistics = torch.empty((2, rows), dtype=torch.float32, device=x.device)
    wide = triton.next_power_of_2(width)
    block = max(1, ELEMENTS // wide)
    statistics_kernel[(triton.cdiv(rows, block),)](
        x, statistics, rows, width, EPSILON, WIDE=wide, BLOCK=block, enable_fp_fusion=False
    )
    return statistics


def computed(late: LateInput) -> Tensor:
    """Compute the LayerNorm or GELU, in the type and shape of x: the values that a fused quantizer quantizes."""
    x, before = before_of(late)
    rows, width = x.shape
    y, wide = torch.empty_like(x), min(1024, triton.next_power_of_2(width))
    block = max(1, ELEMENTS // wide)
    inputs_kernel[(triton.cdiv(rows, block), triton.cdiv(width, wide))](
        *(x, y, before.statistics, before.shift, before.factor, rows, width),
        *(before.tokens, before.shift_line, before.factor_line),
        BEFORE=before.number,
        WIDE=wide,
        BLOCK=block,
        enable_fp_fusion=False,
    )
    return y.view(late.x.shape)


def fits(late: LateInput) -> bool:
    """Whether the kernels take this input: its rows fit a program, and each sample has one row of shift and scale."""
    if isinstance(late, ModulatedInput):
        samples = (late.x.shape[0], late.x.shape[-1])
        return late.x.dim() == 3 and late.shift.shape == late.scale.shape == samples and samples[1] <= 8192
    return True
