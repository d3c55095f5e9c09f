"""The grouped linear in Triton. Tensor cores multiply 8-bit codes of each group; scales are applied in float32.

For each output and group, D = Σ (qx − zx)(qw − zw) is an integer, and part ← fma(D · sw, sx, part), as in the C++
variants. `qdit.kernels.triton_weight` says how the tensor cores compute D, or what is missing to it; one or two fused
multiply-adds add that. They are exact, because all numbers are integers below 2^24. Weights are unpacked to 8 bits once
per device. This costs memory, but a transformer spends its time in arithmetic, not in reading weights.

32-bit sums of a group cannot overflow: |Σ| ≤ 128 · 128 · 320 < 2^31. A chain of n fused multiply-adds has an error of
at most (n + 2) · 2^-24 · Σ|terms|, with the product D · sw and the bias. Chains of more than `PART` groups are divided,
except where the output is rounded to half precision: there the error of `LONGEST_CHAIN` groups is below 1/30 of the
largest rounding error of float16, and a plain chain needs fewer registers and no branch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from qdit.kernels import flags
from qdit.kernels.inputs import LateInput
from qdit.kernels.packing import PackedWeight
from qdit.kernels.parts import NO_PARTS, Branch, Parts, transformed
from qdit.kernels.triton_blocks import Blocks, places_of_block, product_of_group, store_block
from qdit.kernels.triton_channel import multiply_channels
from qdit.kernels.triton_inputs import computed
from qdit.kernels.triton_quantize import Codes, quantize_rows
from qdit.kernels.triton_transform import fit, narrow_rows
from qdit.kernels.triton_weight import LARGEST_GROUP, WideWeight, wide_weight

PART = 16
"""Groups that are added up before they are added to the rest, so that long rows stay as exact as short ones."""

LONGEST_CHAIN = 256
"""Groups that are added up at once for an output in half precision."""


@triton.jit
def linear_kernel(
    codes,
    scale,
    zero,
    totals,
    weight,
    weight_scale,
    weight_sums,
    weight_zeros,
    bias,
    narrow,
    up,
    y,
    flag,
    rows,
    outputs,
    groups,
    line,
    rank,
    PADDED: tl.constexpr,
    SHARED: tl.constexpr,
    PART: tl.constexpr,
    SUMS: tl.constexpr,
    ZEROS: tl.constexpr,
    BIAS: tl.constexpr,
    BRANCH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute BLOCK_ROWS × BLOCK_COLUMNS values of y (rows, outputs). `flag` is set to 1 if a value is not finite.

    codes (rows, line) and weight (outputs, line) are int8, in groups padded to PADDED bytes. SHARED groups have one
    scale and one zero, both (ranges, rows). totals is (groups, rows); weight_scale, weight_sums (with SUMS) and
    weight_zeros (with ZEROS) are (groups, outputs). With BRANCH, the sum starts with narrow (rank, rows) times up
    (panels of 48 outputs, rank, 48). PART groups form one chain of multiply-adds; 0 means all groups.
    """
    row, column = places_of_block(rows, outputs, BLOCK_ROWS, BLOCK_COLUMNS)
    mask = (row < rows)[:, None] & (column < outputs)[None, :]
    row, column = row % rows, column % outputs  # what lies outside reads something, and is not stored
    left, right = codes + row.to(tl.int64) * line, weight + column.to(tl.int64) * line
    far_rows, far_columns = tl.zeros((), tl.int64) + rows, tl.zeros((), tl.int64) + outputs
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    if BRANCH:
        wide = up + column // 48 * 48 * rank + column % 48
        for place in range(rank):
            thin = tl.load(narrow + place * far_rows + row)
            total = tl.fma(thin[:, None], tl.load(wide + place * 48)[None, :], total)
    subtotal = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for first in range(0, groups if PART > 0 else 1, PART if PART > 0 else 1):
        for index in range(first, tl.minimum(first + PART, groups) if PART > 0 else groups):
            sums = product_of_group(left, right, PADDED, BLOCK_ROWS, BLOCK_COLUMNS)
            left += PADDED
            right += PADDED
            of_rows, of_columns = index // SHARED * far_rows + row, index * far_columns + column
            whole = sums.to(tl.float32)
            if SUMS:
                whole = tl.fma(-tl.load(zero + of_rows)[:, None], tl.load(weight_sums + of_columns)[None, :], whole)
            if ZEROS:
                row_totals = tl.load(totals + index * far_rows + row)
                whole = tl.fma(-row_totals[:, None], tl.load(weight_zeros + of_columns)[None, :], whole)
            subtotal = tl.fma(
                whole * tl.load(weight_scale + of_columns)[None, :], tl.load(scale + of_rows)[:, None], subtotal
            )
        if PART > 0:
            total += subtotal
            subtotal = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    total += subtotal
    if BIAS:
        total += tl.load(bias + column)[None, :]
    store_block(total, y, flag, row, column, mask, outputs)


def grouped_linear(
    x: Tensor | LateInput,
    weight: PackedWeight,
    bias: Tensor | None,
    *,
    activation_bits: int,
    symmetric: bool,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
    parts: Parts = NO_PARTS,
    dtype: torch.dtype | None = None,
) -> Tensor | None:
    """Compute the grouped linear (…, width) → (…, outputs) in `dtype`, by default the type of x.

    Returns None if a number is not finite. Inside `flags.watched()` no call waits for the GPU, so the result is
    returned without reading its flag.
    """
    shared = weight.group_size if input_group is None else input_group
    wide = wide_weight(weight, whole=shared == weight.width and parts.branch is None)
    values = x if isinstance(x, Tensor) else x.x
    rows, steps = values.reshape(-1, weight.width).contiguous(), parts.steps
    if not fit(steps, weight.width):
        rows, steps, x = transformed(rows if isinstance(x, Tensor) else computed(x).flatten(0, -2), steps), (), rows
    quantized = quantize_rows(
        rows if isinstance(x, Tensor) else x,
        activation_bits,
        shared=shared,
        size=wide.size,
        padded=wide.padded,
        symmetric=symmetric,
        static=static,
        totals=wide.zeros is not None,
        steps=steps,
    )
    narrow = None if parts.branch is None else narrow_rows(rows, parts.branch, steps)
    y = torch.empty((len(rows), weight.outputs), dtype=dtype or values.dtype, device=rows.device)
    multiply(quantized, wide, bias, (narrow, parts.branch), y, shared // wide.size)
    return None if flags.raised(rows.device) else y.reshape(*values.shape[:-1], weight.outputs)


def multiply(
    quantized: Codes,
    wide: WideWeight,
    bias: Tensor | None,
    branch: tuple[Tensor | None, Branch | None],
    y: Tensor,
    shared: int,
) -> None:
    """Write the product of codes and a weight, plus the branch and the bias, to y (rows, outputs).

    `shared` groups of the weight have one scale of the input. The kernel sets the flag of the device to 1 if a number
    is not finite.
    """
    rows, outputs = y.shape
    flag, offset = flags.flag_of(y.device), wide.scale if bias is None else bias.float().contiguous()
    if len(wide.scale) == 1 and wide.size > LARGEST_GROUP:
        multiply_channels(quantized, wide, offset, y, flag, with_bias=bias is not None)
        return
    blocks = choose_blocks(rows, outputs, wide.padded)
    narrow, factors = branch
    rank = 0 if narrow is None else len(narrow)
    linear_kernel[(triton.cdiv(rows, blocks.rows) * triton.cdiv(outputs, blocks.columns),)](
        *(quantized.codes, quantized.scale, quantized.zero, _or(quantized.totals, quantized.scale)),
        *(wide.codes, wide.scale, _or(wide.sums, wide.scale), _or(wide.zeros, wide.scale), offset),
        *((wide.scale, wide.scale) if narrow is None or factors is None else (narrow, factors.up)),
        *(y, flag, rows, outputs, len(wide.scale), wide.codes.shape[1], rank),
        PADDED=wide.padded,
        SHARED=shared,
        PART=part_for(len(wide.scale), y.dtype),
        SUMS=wide.sums is not None,
        ZEROS=wide.zeros is not None,
        BIAS=bias is not None,
        BRANCH=rank > 0,
        BLOCK_ROWS=blocks.rows,
        BLOCK_COLUMNS=blocks.columns,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        enable_fp_fusion=False,
    )


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, or another one in the place of an argument that the kernel does not read."""
    return other if tensor is None else tensor


def part_for(groups: int, dtype: torch.dtype) -> int:
    """Return how many of `groups` groups form one chain of multiply-adds, for an output type; 0 means all."""
    longest = PART if dtype == torch.float32 else LONGEST_CHAIN
    return PART if groups > longest else 0


def choose_blocks(rows: int, outputs: int, padded: int) -> Blocks:
    """Choose the size of the blocks: 64 × 128 with 4 warps, or smaller for small problems.

    A multiprocessor runs two programs of this size. While one program scales its sums, the other one multiplies.
    Smaller blocks give enough programs for all multiprocessors.
    """
    loaded = (64 + 128) * padded  # bytes of one group
    stages = max(2, min(4, 100_000 // loaded))
    if triton.cdiv(rows, 64) * triton.cdiv(outputs, 128) >= 128:
        return Blocks(64, 128, 4, stages)
    return Blocks(64 if rows > 32 else 32, 64, 4, stages)
