"""Weights that are unpacked to 8 bits for the tensor cores of GPUs.

The tensor cores multiply qx − 128 and w̃ = qw − zw (for 8-bit weights qw − 128). The exact whole number of a group is

    D = Σ (qx − zx) w̃ = Σ (qx − 128) w̃ + (zx − 128) · (−Σ w̃).

The last product can be a part of the sum on the tensor cores: the padding of a group holds zx − 128 beside the codes of
an input, and whole numbers with the sum −Σ w̃ beside those of a weight. Then no other instruction subtracts the zero
point. Otherwise the kernel subtracts it by one fused multiply-add for each output and group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from qdit.core.affine import group
from qdit.kernels.packing import LARGEST_GROUP as LARGEST_ROW
from qdit.kernels.packing import PackedWeight, unpack_weight

STEP = 32
"""Tensor cores multiply steps of 32 bytes: groups of codes are padded to a multiple of it."""

LARGEST_GROUP = 288
"""Larger groups are computed in parts: their whole numbers stay below 2^24, and a part fits the pipeline."""

PADDED_FOR_ZEROS = 128
"""Groups up to this size get a step of 32 bytes for zero points, if the padding is too small for them.

The step costs 64 cycles of the tensor cores for a block of 64 × 128 outputs, and saves about as many instructions. In
larger groups the tensor cores are the bottleneck (`qdit bench gpu-code` counts both).
"""

DIGIT = 127
"""Largest number that one byte of padding holds."""


@dataclass(frozen=True)
class WideWeight:
    """A weight that is unpacked to 8 bits for the tensor cores.

    `codes` (outputs, groups · padded) is int8. `scale`, `sums` and `zeros` (only for 8-bit zero points) are (groups,
    outputs) float32. `sums` is None if the padding of the codes holds it. `size` is the group size; it divides that of
    the packed weight, or is the whole width of a weight with one scale for each output.
    """

    codes: Tensor
    scale: Tensor
    sums: Tensor | None
    zeros: Tensor | None
    size: int
    padded: int


_WIDE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Packed codes → {whether rows were one group: (their version, the wide weight)}."""


def wide_weight(weight: PackedWeight, *, whole: bool = False) -> WideWeight:
    """Unpack a weight to 8 bits. The result is kept as long as the packed codes exist and do not change.

    With `whole`, a weight that has one scale and one zero point for each output becomes one group, if it is longer than
    `LARGEST_GROUP`.
    """
    known = _WIDE.setdefault(weight.codes, {})
    version = (0 if weight.codes.is_inference() else weight.codes._version, weight.group_size, weight.storage)
    if whole not in known or known[whole][0] != version:
        known[whole] = (version, _widen(weight, whole=whole))
    return known[whole][1]


def _widen(weight: PackedWeight, *, whole: bool) -> WideWeight:
    codes, zero, scale = unpack_weight(weight)
    one_range = all(bool((t == t[:, :1]).all()) for t in (zero, scale))
    if whole and one_range and LARGEST_GROUP < weight.width <= LARGEST_ROW:
        size, zero, scale = weight.width, zero[:, :1], scale[:, :1]
    else:
        size = part_of(weight.group_size)
        zero, scale = (t.repeat_interleave(weight.group_size // size, dim=1) for t in (zero, scale))
    offset = torch.full_like(zero, 128) if weight.storage == 8 else zero
    groups = group(codes, size) - offset[..., None]
    sums = groups.sum(dim=-1)
    padded = padded_for(size, int(sums.abs().max()))
    padding = torch.zeros(*sums.shape, padded - size, dtype=sums.dtype, device=sums.device)
    holds_sums = padded - size >= digits_of(int(sums.abs().max()))
    if holds_sums:
        padding = digits(-sums, padded - size)
    beyond = (zero - offset).T.float().contiguous() if weight.zero_pairs is not None else None
    return WideWeight(
        codes=torch.cat([groups, padding], dim=-1).to(torch.int8).flatten(1).contiguous(),
        scale=scale.T.contiguous(),
        sums=None if holds_sums else sums.T.float().contiguous(),
        zeros=beyond,
        size=size,
        padded=padded,
    )


def padded_for(size: int, largest: int) -> int:
    """Return the bytes of a group whose sums are at most `largest`, with room for zero points where this is faster.

    A row that is one group is padded to a multiple of 128 bytes.
    """
    if size > LARGEST_GROUP:
        return -(-size // 128) * 128
    padded, needed = padded_size(size), digits_of(largest)
    return padded + STEP if size <= PADDED_FOR_ZEROS and padded - size < needed <= padded + STEP - size else padded


def padded_size(size: int) -> int:
    """Return the bytes of a padded group of codes, without room for zero points."""
    return -(-size // STEP) * STEP


def digits_of(largest: int) -> int:
    """Return how many bytes (−127 … 127 each) are needed so that their sum can be `largest`."""
    return -(-largest // DIGIT)


def digits(numbers: Tensor, count: int) -> Tensor:
    """Write each number as a sum of `count` whole numbers from −127 to 127: (…,) → (…, count)."""
    before = DIGIT * torch.arange(count, device=numbers.device, dtype=numbers.dtype)
    return numbers.sign()[..., None] * (numbers.abs()[..., None] - before).clamp(0, DIGIT)


def part_of(size: int) -> int:
    """Return the group size to compute with: `size`, or if too large, its divisor that suits tensor cores best."""
    if size <= LARGEST_GROUP:
        return size
    divisors = [divisor for divisor in range(1, LARGEST_GROUP + 1) if size % divisor == 0]
    return max(divisors, key=lambda divisor: (divisor / padded_size(divisor), steps_of(padded_size(divisor)), divisor))


def steps_of(padded: int) -> int:
    """Return the largest power of two, at most 128, that divides the bytes of a padded group."""
    return min(128, padded & -padded)
