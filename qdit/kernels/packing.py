"""Packed weights in the memory layout of the grouped kernels.

A panel is 48 outputs, a step is 4 inputs, and a chunk is a sequence of groups with about 512 inputs. A sum is rounded
once per chunk, so long rows are as exact as short ones. Inside a chunk the bytes have the order [step][output of the
panel][input of the step]. With 4 bits, one byte holds two consecutive steps, the first in its low half. With 6 bits,
further bytes hold the upper two bits of four steps each. `qdit/kernels/csrc/kernel.h` has the same constants.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qdit.core.affine import group
from qdit.core.errors import ConfigError, Unsupported
from qdit.core.grouping import check_group_size

COLUMNS = 48
CHUNK = 512
MOST_GROUPS = 32
LARGEST_GROUP = 16384
"""Larger groups could overflow the 32-bit sums."""

Storage = Literal[4, 6, 8]
OPERAND = {4: 15, 6: 63}
"""Largest |code − zero_point| that the 4-bit and the 6-bit path multiply without overflow."""


@dataclass(frozen=True)
class PackedWeight:
    """A packed weight (outputs, width), quantized in groups along the input; ŵ = (code − zero_point) · scale.

    `codes` are the packed bytes. `scale` (float32), `sums` and `zeros` are (panels, groups, 48). `zeros` is an int8
    offset. `sums` holds −Σ(code − offset) of each group as two 16-bit integers. With 8 bits the offset is 128; then
    `zero_pairs` holds zero_point − 128 as two 16-bit integers, if one of them differs from 0.
    """

    codes: Tensor
    scale: Tensor
    sums: Tensor
    zeros: Tensor
    zero_pairs: Tensor | None
    bits: int
    storage: Storage
    outputs: int
    width: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (outputs, width)."""
        return self.outputs, self.width

    @property
    def groups(self) -> int:
        """Number of groups in a row."""
        return self.width // self.group_size

    def to(self, device: torch.device | str) -> "PackedWeight":
        """Return the same weight with its tensors on a device."""
        pairs = None if self.zero_pairs is None else self.zero_pairs.to(device)
        codes, scale, sums, zeros = (t.to(device) for t in (self.codes, self.scale, self.sums, self.zeros))
        return replace(self, codes=codes, scale=scale, sums=sums, zeros=zeros, zero_pairs=pairs)


def pack_weight(
    codes: Tensor, scale: Tensor, zero_point: Tensor, *, bits: int, group_size: int | None = None
) -> PackedWeight:
    """Pack codes 0 … 2^bits − 1 (outputs, width) with scale and zero_point (outputs or 1, groups).

    A symmetric weight has zero_point 2^(bits − 1). `group_size` is the group size of the activations, if it is smaller
    than that of the weight; it divides the weight's group size. Raises ConfigError for wrong arguments. Raises
    Unsupported for weights that the kernels cannot multiply: group sizes that are no multiple of 4, or zero points far
    outside the codes.
    """
    outputs, width = codes.shape
    weight_group = width // scale.shape[1]
    check_group_size(weight_group, width, "packed weight")
    size = weight_group if group_size is None else group_size
    check_group_size(size, weight_group, "packed weight")
    if size % 4 or size > LARGEST_GROUP:
        raise Unsupported(f"group_size {size}: the kernels take multiples of 4 up to {LARGEST_GROUP}")
    if not 2 <= bits <= 8 or int(codes.min()) < 0 or int(codes.max()) >= 2**bits:
        raise ConfigError(f"codes from {int(codes.min())} to {int(codes.max())} with {bits} bits: allowed are 2 to 8")
    scale, zero_point = (_of_every_group(t, outputs, weight_group // size) for t in (scale.float(), zero_point.int()))
    storage = _storage(codes, zero_point, bits, size)
    offset = torch.full_like(zero_point, 128) if storage == 8 else zero_point
    sums = (group(codes.int(), size) - offset[..., None]).sum(dim=-1)
    beyond = zero_point - offset
    return PackedWeight(
        codes=_pack(codes, storage, size),
        scale=_panels(scale),
        sums=_panels(_pair(-(sums & 127), -(sums >> 7))),
        zeros=_panels(torch.zeros_like(offset) if storage == 8 else offset).to(torch.int8),
        zero_pairs=_panels(_pair(-beyond, -128 * beyond)) if bool(beyond.any()) else None,
        bits=bits,
        storage=storage,
        outputs=outputs,
        width=width,
        group_size=size,
    )


def unpack_weight(weight: PackedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (outputs, width) int32, zero_point (outputs, groups) int32 and scale (outputs, groups) float32."""
    panels, steps, at, parts = weight.scale.shape[0], weight.group_size // 4, 0, []
    rows = weight.codes.view(panels, -1)
    for groups in chunks(weight.groups, weight.group_size):
        count = groups * steps
        padded = -(-count // 4) * 4
        length = (count if weight.storage == 8 else padded * (weight.storage // 2) // 4) * COLUMNS * 4
        block = rows[:, at : at + length].reshape(panels, -1, COLUMNS, 4).int()
        parts.append(_unpack_chunk(block, weight.storage, padded)[:, :count])
        at += length
    codes = torch.cat(parts, dim=1).permute(0, 2, 1, 3).reshape(panels * COLUMNS, weight.width)[: weight.outputs]
    zeros = torch.full_like(weight.sums, 128) if weight.storage == 8 else weight.zeros.int()
    if weight.zero_pairs is not None:
        zeros = zeros - ((weight.zero_pairs << 16) >> 16)
    return codes, _rows(zeros, weight.outputs), _rows(weight.scale, weight.outputs)


def chunks(groups: int, group_size: int) -> Iterator[int]:
    """Return the number of groups in each chunk of a row; a chunk has about 512 inputs."""
    most = max(1, min(MOST_GROUPS, CHUNK // group_size))
    for first in range(0, groups, most):
        yield min(most, groups - first)


def _of_every_group(values: Tensor, outputs: int, times: int) -> Tensor:
    return values.expand(outputs, -1).repeat_interleave(times, dim=1)


def _storage(codes: Tensor, zero_point: Tensor, bits: int, size: int) -> Storage:
    """The layout with the fewest bits that can hold the codes and multiplies code − zero_point exactly."""
    operand = int((group(codes.int(), size) - zero_point[..., None]).abs().max())
    if bits <= 4 and operand <= OPERAND[4]:
        return 4
    if bits <= 6 and operand <= OPERAND[6]:
        return 6
    low, high = int(zero_point.min()), int(zero_point.max())
    if low < 128 - 255 or high > 128 + 255:
        raise Unsupported(f"zero_point from {low} to {high}: the integer kernels take -127 to 383")
    return 8


def _panels(values: Tensor) -> Tensor:
    """(outputs, groups) → (panels, groups, 48), padded with zeros."""
    padded = torch.nn.functional.pad(values, (0, 0, 0, -len(values) % COLUMNS))
    return padded.view(-1, COLUMNS, values.shape[1]).transpose(1, 2).contiguous()


def _rows(values: Tensor, outputs: int) -> Tensor:
    """Inverse of `_panels`."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])[:outputs]


def _pair(low: Tensor, high: Tensor) -> Tensor:
    """Two 16-bit integers in one int32."""
    return ((low & 0xFFFF) | (high << 16)).to(torch.int32)


def _pack(codes: Tensor, storage: Storage, group_size: int) -> Tensor:
    """All bytes of all panels, one after another."""
    padded = torch.nn.functional.pad(codes.int(), (0, 0, 0, -len(codes) % COLUMNS))
    steps = padded.view(-1, COLUMNS, codes.shape[1] // 4, 4).permute(0, 2, 1, 3)
    parts, at = [], 0
    for groups in chunks(codes.shape[1] // group_size, group_size):
        count = groups * (group_size // 4)
        parts.append(_pack_chunk(steps[:, at : at + count], storage).flatten(1))
        at += count
    return torch.cat(parts, dim=1).to(torch.uint8).flatten().contiguous()


def _pack_chunk(steps: Tensor, storage: Storage) -> Tensor:
    """(panels, steps, 48, 4) → the bytes of one chunk, (panels, bytes / 192, 48, 4), as int32."""
    if storage == 8:
        return (steps - 128) & 255
    steps = torch.nn.functional.pad(steps, (0, 0, 0, 0, 0, -steps.shape[1] % 4))
    low = steps & 15
    nibbles = low[:, 0::2] | (low[:, 1::2] << 4)
    if storage == 4:
        return nibbles
    high = steps >> 4
    twos = high[:, 0::4] | (high[:, 1::4] << 2) | (high[:, 2::4] << 4) | (high[:, 3::4] << 6)
    return torch.cat([nibbles, twos], dim=1)


def _unpack_chunk(block: Tensor, storage: Storage, padded: int) -> Tensor:
    """Inverse of `_pack_chunk`."""
    if storage == 8:
        return (block ^ 128) & 255
    nibbles = block[:, : padded // 2]
    codes = torch.stack([nibbles & 15, nibbles >> 4], dim=2).flatten(1, 2)
    if storage == 4:
        return codes
    twos = torch.stack([(block[:, padded // 2 :] >> shift) & 3 for shift in (0, 2, 4, 6)], dim=2).flatten(1, 2)
    return codes | (twos << 4)
