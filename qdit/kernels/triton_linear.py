"""The grouped linear in Triton. Tensor cores multiply 8-bit codes of each group; scales are applied in float32.

For each output and group, D = Σ (qx − zx)(qw − zw) is an integer, and part ← fma(D · sw, sx, part), as in the C++
variants. The tensor cores multiply qx − 128 and qw − zw (for 8-bit weights qw − 128). One or two fused multiply-adds
compute D from the sum of these products. They are exact, because all numbers are integers below 2^24. Weights are
unpacked to 8 bits once per device. This costs memory, but a transformer spends its time in arithmetic, not in reading
weights.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from qdit.core.affine import group
from qdit.kernels import flags
from qdit.kernels.packing import PackedWeight, unpack_weight
from qdit.kernels.parts import NO_PARTS, Branch, Parts, transformed
from qdit.kernels.triton_quantize import Codes, padded_size, quantize_rows
from qdit.kernels.triton_transform import fit, narrow_rows

LARGEST_GROUP = 288
"""Larger groups are computed in parts: their whole numbers stay below 2^24, and a part fits the pipeline."""

PART = 16
"""Groups that are added up before they are added to the rest, so that long rows stay as exact as short ones."""


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
    STEP: tl.constexpr,
    SHARED: tl.constexpr,
    PART: tl.constexpr,
    ZEROS: tl.constexpr,
    BIAS: tl.constexpr,
    BRANCH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute BLOCK_ROWS × BLOCK_COLUMNS values of y (rows, outputs). `flag` is set to 1 if a value is not finite.

    codes (rows, line) and weight (outputs, line) are int8, in groups padded to PADDED bytes. SHARED groups have one
    scale and one zero, both (ranges, rows). totals is (groups, rows); weight_scale, weight_sums, weight_zeros are
    (groups, outputs). With BRANCH, the sum starts with narrow (rank, rows) times up (panels of 48 outputs, rank, 48).
    """
    # Programs that run at the same time share columns of 8 blocks of rows: their operands stay in the cache.
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    program = tl.program_id(0)
    band = program // (8 * tl.cdiv(outputs, BLOCK_COLUMNS)) * 8
    height = tl.minimum(blocks - band, 8)
    inside = program % (8 * tl.cdiv(outputs, BLOCK_COLUMNS))
    row = (band + inside % height) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = inside // height * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    mask = (row < rows)[:, None] & (column < outputs)[None, :]
    row, column = row % rows, column % outputs  # what lies outside reads something, and is not stored
    step = tl.arange(0, STEP)
    left = codes + row.to(tl.int64)[:, None] * line + step[None, :]
    right = weight + column.to(tl.int64)[None, :] * line + step[:, None]
    far_rows, far_columns = tl.zeros((), tl.int64) + rows, tl.zeros((), tl.int64) + outputs
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    subtotal = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    if BRANCH:
        wide = up + column // 48 * 48 * rank + column % 48
        for place in range(rank):
            thin = tl.load(narrow + place * far_rows + row)
            total = tl.fma(thin[:, None], tl.load(wide + place * 48)[None, :], total)
    for index in range(groups):
        sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
        for at in tl.static_range(0, PADDED, STEP):
            sums = tl.dot(tl.load(left + at), tl.load(right + at), sums, out_dtype=tl.int32)
        left += PADDED
        right += PADDED
        of_rows, of_columns = index // SHARED * far_rows + row, index * far_columns + column
        whole = tl.fma(
            -tl.load(zero + of_rows)[:, None], tl.load(weight_sums + of_columns)[None, :], sums.to(tl.float32)
        )
        if ZEROS:
            row_totals = tl.load(totals + index * far_rows + row)
            whole = tl.fma(-row_totals[:, None], tl.load(weight_zeros + of_columns)[None, :], whole)
        subtotal = tl.fma(
            whole * tl.load(weight_scale + of_columns)[None, :], tl.load(scale + of_rows)[:, None], subtotal
        )
        if PART > 0:  # noqa: SIM102 - the outer one is decided when compiling
            if index % PART == PART - 1:
                total += subtotal
                subtotal = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    total += subtotal
    if BIAS:
        total += tl.load(bias + column)[None, :]
    result = total.to(y.dtype.element_ty)
    endless = mask & ((tl.abs(result.to(tl.float32)) <= 3.4028234663852886e38) == 0)
    bad = tl.max(tl.max(endless.to(tl.int32), axis=1), axis=0)
    tl.atomic_max(flag, bad, mask=bad > 0)
    tl.store(y + row.to(tl.int64)[:, None] * outputs + column[None, :], result, mask=mask)


@dataclass(frozen=True)
class WideWeight:
    """A weight that is unpacked to 8 bits for the tensor cores.

    `codes` (outputs, groups · padded) is int8. `scale`, `sums` and `zeros` (only for 8-bit zero points) are (groups,
    outputs) float32. `size` is the group size; it divides that of the packed weight.
    """

    codes: Tensor
    scale: Tensor
    sums: Tensor
    zeros: Tensor | None
    size: int


@dataclass(frozen=True)
class Blocks:
    """Block of outputs that one program computes, and the program's numbers of warps and stages."""

    rows: int
    columns: int
    warps: int
    stages: int


_WIDE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Packed codes → (their version, the wide weight)."""


def grouped_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    *,
    activation_bits: int,
    symmetric: bool,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
    parts: Parts = NO_PARTS,
    blocks: Blocks | None = None,
) -> Tensor | None:
    """(…, width) → (…, outputs) in the type of x; None where a number is not finite. `blocks` overrides the choice.

    Inside `flags.watched()` no call waits for the GPU: the result comes without a look at its flag.
    """
    wide, shared = wide_weight(weight), weight.group_size if input_group is None else input_group
    rows, steps = x.reshape(-1, weight.width).contiguous(), parts.steps
    if not fit(steps, weight.width):
        rows, steps = transformed(rows, steps), ()
    quantized = quantize_rows(
        rows,
        activation_bits,
        shared=shared,
        size=wide.size,
        symmetric=symmetric,
        static=static,
        totals=wide.zeros is not None,
        steps=steps,
    )
    narrow = None if parts.branch is None else narrow_rows(rows, parts.branch, steps)
    y = torch.empty((len(rows), weight.outputs), dtype=x.dtype, device=x.device)
    flag = flags.flag_of(x.device)
    block_sizes = blocks or choose_blocks(len(y), weight.outputs, wide.size)
    _multiply(quantized, wide, bias, (narrow, parts.branch), y, flag, shared // wide.size, block_sizes)
    return None if flags.raised(x.device) else y.reshape(*x.shape[:-1], weight.outputs)


def _multiply(
    quantized: Codes,
    wide: WideWeight,
    bias: Tensor | None,
    branch: tuple[Tensor | None, Branch | None],
    y: Tensor,
    flag: Tensor,
    shared: int,
    blocks: Blocks,
) -> None:
    rows, outputs = y.shape
    padded, groups = padded_size(wide.size), len(wide.scale)
    grid = triton.cdiv(rows, blocks.rows) * triton.cdiv(outputs, blocks.columns)
    narrow, factors = branch
    rank = 0 if narrow is None else len(narrow)
    linear_kernel[(grid,)](
        *(
            quantized.codes,
            quantized.scale,
            quantized.zero,
            quantized.scale if quantized.totals is None else quantized.totals,
        ),
        *(wide.codes, wide.scale, wide.sums, wide.scale if wide.zeros is None else wide.zeros),
        *(wide.scale if bias is None else bias.float().contiguous(),),
        *((wide.scale, wide.scale) if narrow is None or factors is None else (narrow, factors.up)),
        *(y, flag, rows, outputs, groups, wide.codes.shape[1], rank),
        PADDED=padded,
        STEP=step_of(padded),
        SHARED=shared,
        PART=PART if groups > PART else 0,
        ZEROS=wide.zeros is not None,
        BIAS=bias is not None,
        BRANCH=rank > 0,
        BLOCK_ROWS=blocks.rows,
        BLOCK_COLUMNS=blocks.columns,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        enable_fp_fusion=False,
    )


def choose_blocks(rows: int, outputs: int, size: int) -> Blocks:
    """Size of the blocks: 64 × 128 with 4 warps, or smaller for small problems.

    A multiprocessor runs two programs of this size. While one scales its sums, the other one multiplies. Smaller
    blocks give enough programs for all multiprocessors.
    """
    loaded = (64 + 128) * padded_size(size)  # bytes of one group
    stages = max(2, min(4, 100_000 // loaded))
    if triton.cdiv(rows, 64) * triton.cdiv(outputs, 128) >= 128:
        return Blocks(64, 128, 4, stages)
    return Blocks(64 if rows > 32 else 32, 64, 4, stages)


def step_of(padded: int) -> int:
    """Bytes of one step: the largest power of two up to 128 that divides a padded group."""
    return min(128, padded & -padded)


def wide_weight(weight: PackedWeight) -> WideWeight:
    """The weight, unpacked to 8 bits. It is kept as long as its packed codes exist and do not change."""
    known = _WIDE.get(weight.codes)
    version = (0 if weight.codes.is_inference() else weight.codes._version, weight.group_size, weight.storage)
    if known is None or known[0] != version:
        known = _WIDE[weight.codes] = (version, _widen(weight))
    return known[1]


def _widen(weight: PackedWeight) -> WideWeight:
    codes, zero, scale = unpack_weight(weight)
    size = part_of(weight.group_size)
    times = weight.group_size // size
    zero, scale = (t.repeat_interleave(times, dim=1) for t in (zero, scale))
    offset = torch.full_like(zero, 128) if weight.storage == 8 else zero
    groups = group(codes, size) - offset[..., None]
    padded = torch.nn.functional.pad(groups, (0, padded_size(size) - size))
    beyond = (zero - offset).T.float().contiguous() if weight.zero_pairs is not None else None
    return WideWeight(
        codes=padded.to(torch.int8).flatten(1).contiguous(),
        scale=scale.T.contiguous(),
        sums=groups.sum(dim=-1).T.float().contiguous(),
        zeros=beyond,
        size=size,
    )


def part_of(size: int) -> int:
    """Group size to compute with: `size`, or for a larger size the divisor that suits the tensor cores best."""
    if size <= LARGEST_GROUP:
        return size
    divisors = [divisor for divisor in range(1, LARGEST_GROUP + 1) if size % divisor == 0]
    return max(divisors, key=lambda divisor: (divisor / padded_size(divisor), step_of(padded_size(divisor)), divisor))
