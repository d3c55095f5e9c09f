"""Code that the Triton kernels of linears share: which block of outputs a program computes, its product, its result.

A program is one instance of a kernel; it computes one block of the output matrix.
"""

from dataclasses import dataclass

import triton
import triton.language as tl


@dataclass(frozen=True)
class Blocks:
    """Size of the block of outputs that one program computes, and the program's numbers of warps and stages."""

    rows: int
    columns: int
    warps: int
    stages: int


@triton.jit
def places_of_block(rows, outputs, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Return the row and column indices of this program's block; they may lie outside the result.

    Programs that run at the same time share columns of 8 blocks of rows: their operands stay in the cache.
    """
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    program = tl.program_id(0)
    band = program // (8 * tl.cdiv(outputs, BLOCK_COLUMNS)) * 8
    height = tl.minimum(blocks - band, 8)
    inside = program % (8 * tl.cdiv(outputs, BLOCK_COLUMNS))
    row = (band + inside % height) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = inside // height * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    return row, column


@triton.jit
def step_product(left, right, sums, at, STEP: tl.constexpr):
    """Return sums + the products of STEP bytes; `left` (rows,) and `right` (columns,) point to the rows of codes."""
    step = at + tl.arange(0, STEP)
    return tl.dot(
        tl.load(left[:, None] + step[None, :]), tl.load(right[None, :] + step[:, None]), sums, out_dtype=tl.int32
    )


@triton.jit
def product_of_group(left, right, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return Σ of the products of PADDED bytes (a multiple of 32), int32 (ROWS, COLUMNS), in few large steps."""
    sums = tl.zeros((ROWS, COLUMNS), tl.int32)
    for number in tl.static_range(PADDED // 128):
        sums = step_product(left, right, sums, 128 * number, 128)
    if PADDED & 64:
        sums = step_product(left, right, sums, PADDED // 128 * 128, 64)
    if PADDED & 32:
        sums = step_product(left, right, sums, PADDED // 64 * 64, 32)
    return sums


@triton.jit
def store_block(total, y, flag, row, column, mask, outputs):
    """Round `total` to the type of y (rows, outputs) and store it; `flag` becomes 1 if a number is not finite."""
    result = total.to(y.dtype.element_ty)
    endless = mask & ((tl.abs(result.to(tl.float32)) <= 3.4028234663852886e38) == 0)
    bad = tl.max(tl.max(endless.to(tl.int32), axis=1), axis=0)
    tl.atomic_max(flag, bad, mask=bad > 0)
    tl.store(y + row.to(tl.int64)[:, None] * outputs + column[None, :], result, mask=mask)
