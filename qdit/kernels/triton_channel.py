"""Per-token × per-channel linear in Triton: one range for each input row, one scale for each output.

Nothing is scaled inside the sum, so the loop only multiplies codes:

    y = sx · sw · (Σ (qx − 128)(qw − c) − (zx − 128) S − (zw − c) A) + bias,

with S = Σ (qw − c) of an output, A = Σ (qx − zx) of a row, and c the offset of the stored weight codes (zw, or 128 with
8 bits). What stands in the large parentheses is a 32-bit integer. It cannot overflow up to a width of 16384: the first
two terms are at most 128 · 128 · 16384 = 2^28 each, and the last is at most 255 · 255 · 16384 < 2^30.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from qdit.kernels.triton_blocks import Blocks, places_of_block, step_product, store_block
from qdit.kernels.triton_quantize import Codes
from qdit.kernels.triton_weight import WideWeight

STEP = 128
"""Bytes of a row that are multiplied at once."""

LARGE = (9, 10)
"""Compute capabilities (their first numbers) whose shared memory holds three stages of large blocks."""


@triton.jit
def channel_kernel(
    codes,
    scale,
    zero,
    totals,
    weight,
    weight_scale,
    weight_sums,
    weight_zeros,
    bias,
    y,
    flag,
    rows,
    outputs,
    line,
    SUMS: tl.constexpr,
    ZEROS: tl.constexpr,
    BIAS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute BLOCK_ROWS × BLOCK_COLUMNS values of y (rows, outputs). `flag` becomes 1 if one of them is not finite.

    codes (rows, line) and weight (outputs, line) are int8, padded to a multiple of STEP bytes. scale, zero and totals
    are (rows,); weight_scale, weight_sums (with SUMS) and weight_zeros (with ZEROS) are (outputs,). totals holds the
    sums A of the module's text.
    """
    row, column = places_of_block(rows, outputs, BLOCK_ROWS, BLOCK_COLUMNS)
    mask = (row < rows)[:, None] & (column < outputs)[None, :]
    row, column = row % rows, column % outputs
    left, right = codes + row.to(tl.int64) * line, weight + column.to(tl.int64) * line
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    for _ in range(0, line, STEP):
        sums = step_product(left, right, sums, 0, STEP)
        left += STEP
        right += STEP
    if SUMS:
        of_row, of_column = tl.load(zero + row).to(tl.int32), tl.load(weight_sums + column).to(tl.int32)
        sums -= of_row[:, None] * of_column[None, :]
    if ZEROS:
        of_row, of_column = tl.load(totals + row).to(tl.int32), tl.load(weight_zeros + column).to(tl.int32)
        sums -= of_row[:, None] * of_column[None, :]
    total = sums.to(tl.float32) * tl.load(weight_scale + column)[None, :] * tl.load(scale + row)[:, None]
    if BIAS:
        total += tl.load(bias + column)[None, :]
    store_block(total, y, flag, row, column, mask, outputs)


def multiply_channels(
    quantized: Codes,
    wide: WideWeight,
    bias: Tensor,
    y: Tensor,
    flag: Tensor,
    *,
    with_bias: bool,
) -> None:
    """Write the product of codes and a weight with one scale for each output, and the bias, to y (rows, outputs)."""
    rows, outputs = y.shape
    blocks = choose_channel_blocks(rows, outputs, y.device)
    channel_kernel[(triton.cdiv(rows, blocks.rows) * triton.cdiv(outputs, blocks.columns),)](
        *(quantized.codes, quantized.scale, quantized.zero),
        quantized.scale if quantized.totals is None else quantized.totals,
        *(wide.codes, wide.scale, wide.scale if wide.sums is None else wide.sums),
        *(wide.scale if wide.zeros is None else wide.zeros, bias, y, flag),
        *(rows, outputs, wide.codes.shape[1]),
        SUMS=wide.sums is not None,
        ZEROS=wide.zeros is not None,
        BIAS=with_bias,
        STEP=STEP,
        BLOCK_ROWS=blocks.rows,
        BLOCK_COLUMNS=blocks.columns,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        enable_fp_fusion=False,
    )


def choose_channel_blocks(rows: int, outputs: int, device: torch.device) -> Blocks:
    """Choose the size of the blocks: 128 × 256 on the data-centre GPUs `LARGE`, else 128 × 128; less for few rows."""
    if triton.cdiv(rows, 128) * triton.cdiv(outputs, 256) < 128:
        return Blocks(64 if rows > 32 else 32, 64, 4, 4)
    return channel_blocks(large=device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in LARGE)


def channel_blocks(*, large: bool) -> Blocks:
    """Return the blocks for many rows. Large ones take 144 KiB of shared memory (three stages), others 64 KiB (two)."""
    return Blocks(128, 256, 8, 3) if large else Blocks(128, 128, 8, 2)
