"""Input transforms, and the first product (down x) of a low-rank branch, in Triton.

The steps of a transform are compiled into the kernel: they are the digits of one number. So a kernel without steps has
no code for them. Sums and differences follow the order of `qdit.kernels.parts.butterflies`, so the bits are those of
torch.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from qdit.kernels.parts import Branch, Step

SLOTS = 3
"""Steps with one number for each channel that a kernel takes."""

MOST_STEPS = 6
"""Steps that one number holds: 5 bits each."""

FIRST_HADAMARD = 10
"""Digits: 0 none; 1 + 3 · kind + slot for divide, subtract and multiply; 10 + log₂ size for a Hadamard matrix."""

SPAN = 128
"""Inputs that a program of `narrow_kernel` multiplies at once, about."""


@triton.jit
def butterflies(x, LOG: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Multiply blocks of 2^LOG columns by the Hadamard matrix divided by the root of its size."""
    for power in tl.static_range(LOG):
        pairs = tl.reshape(x, (ROWS, WIDE // (2 << power), 2, 1 << power))
        low, high = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
        x = tl.reshape(tl.permute(tl.join(low + high, low - high), (0, 1, 3, 2)), (ROWS, WIDE))
    if LOG % 2 == 1:
        return x * (0.7071067811865476 / (1 << (LOG // 2)))
    return x * (1.0 / (1 << (LOG // 2)))


@triton.jit
def step_of(x, first, second, third, column, inside, DIGIT: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Apply the step with this DIGIT to x; columns outside stay 0 where they are 0."""
    if DIGIT == 0:
        return x
    elif DIGIT > 10:
        return butterflies(x, DIGIT - 10, ROWS, WIDE)
    else:
        if (DIGIT - 1) % 3 == 0:
            values = tl.load(first + column, mask=inside, other=0.0)
        elif (DIGIT - 1) % 3 == 1:
            values = tl.load(second + column, mask=inside, other=0.0)
        else:
            values = tl.load(third + column, mask=inside, other=0.0)
        if DIGIT <= 3:
            factor = tl.where(inside, values, 1.0)
            return tl.div_rn(x, tl.broadcast_to(factor[None, :], (ROWS, WIDE)))
        elif DIGIT <= 6:
            return x - values[None, :]
        else:
            return x * values[None, :]


@triton.jit
def steps_of(x, first, second, third, column, inside, STEPS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Apply all steps of a transform to x (ROWS, WIDE), which holds whole Hadamard blocks from its first column on."""
    for number in tl.static_range(6):
        x = step_of(x, first, second, third, column, inside, (STEPS >> (5 * number)) % 32, ROWS, WIDE)
    return x


@triton.jit
def narrow_kernel(
    x,
    first_values,
    second_values,
    third_values,
    down,
    narrow,
    rows,
    width,
    rank,
    STEPS: tl.constexpr,
    SPAN: tl.constexpr,
    WIDE: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write narrow (rank, rows) = down x of transformed x, with down (width, rank), float32, SPAN inputs per step."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column, place = tl.arange(0, WIDE), tl.arange(0, RANK)
    inside = column < SPAN
    mask = (row < rows)[:, None] & inside[None, :]
    total = tl.zeros((BLOCK, RANK), tl.float32)
    for begin in range(0, width, SPAN):
        value = tl.load(x + row[:, None] * width + begin + column[None, :], mask=mask, other=0.0).to(tl.float32)
        value = steps_of(value, first_values, second_values, third_values, begin + column, inside, STEPS, BLOCK, WIDE)
        factors = tl.load(
            down + (begin + column)[:, None] * rank + place[None, :],
            mask=inside[:, None] & (place < rank)[None, :],
            other=0.0,
        )
        total += tl.dot(value, factors, input_precision="ieee")
    target = place.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(narrow + target, total, mask=(row < rows)[:, None] & (place < rank)[None, :])


def encoded(steps: Sequence[Step], x: Tensor) -> tuple[int, tuple[Tensor, Tensor, Tensor]]:
    """Encode the steps as digits of one number, and return it with their values.

    A step without values gets `x`, which no kernel reads. Only for steps that `fit`.
    """
    number, values = 0, [step.values for step in steps if step.values is not None]
    slot = 0
    for place, step in enumerate(steps):
        if step.kind == "hadamard":
            digit = FIRST_HADAMARD + step.size.bit_length() - 1
        else:
            digit = 1 + 3 * ("divide", "subtract", "multiply").index(step.kind) + slot
            slot += 1
        number |= digit << 5 * place
    first, second, third = [*values, x, x, x][:SLOTS]
    return number, (first, second, third)


def fit(steps: Sequence[Step], width: int) -> bool:
    """Whether the kernels can compute these steps: few steps, and Hadamard blocks of at most 2048 channels."""
    channels = sum(step.values is not None for step in steps)
    return len(steps) <= MOST_STEPS and channels <= SLOTS and all(step.size <= 2048 for step in steps) and width > 0


def narrow_rows(x: Tensor, branch: Branch, steps: Sequence[Step]) -> Tensor:
    """Multiply transformed, contiguous x (rows, width) by the branch's `down`: (padded rank, rows), float32."""
    rows, width = x.shape
    number, values = encoded(steps, x)
    span = narrow_span(width, steps)
    rank = branch.down.shape[1]
    narrow = torch.empty((rank, rows), dtype=torch.float32, device=x.device)
    wide = max(16, triton.next_power_of_2(span))
    block = max(16, min(64, 8192 // wide))
    narrow_kernel[(triton.cdiv(rows, block),)](
        *(x, *values, branch.down, narrow, rows, width, rank),
        STEPS=number,
        SPAN=span,
        WIDE=wide,
        RANK=triton.next_power_of_2(rank),
        BLOCK=block,
        enable_fp_fusion=False,
    )
    return narrow


def narrow_span(width: int, steps: Sequence[Step]) -> int:
    """Choose how many inputs a kernel multiplies in one step: a divisor of the width, in whole Hadamard blocks."""
    block = max((step.size for step in steps if step.kind == "hadamard"), default=1)
    legal = [span for span in range(block, max(block, SPAN) + 1, block) if width % span == 0]
    return max(legal)
