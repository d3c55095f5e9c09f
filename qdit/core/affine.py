"""Affine quantization (Q-DiT Eq. 1): x̂ = (clamp(round(x / scale) + zero_point, 0, 2^b − 1) − zero_point) · scale.

Granularity says which elements share one pair (scale, zero_point): the whole tensor, a row, or a group of consecutive
elements along the input (last) dimension. All functions are pure. Rounding is half to even (torch.round).
"""

import re
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.grouping import check_group_size, packed_width

SMALLEST_RANGE = 1e-5
"""Ranges are not allowed below this (Q-DiT's released quantizer)."""


@dataclass(frozen=True)
class Granularity:
    """Which elements of a tensor share one scale and one zero point: `tensor`, `channel`, `token` or `group`.

    `tensor`: all elements. `channel`: one row of a weight. `token`: one row of an activation. `group`: `group_size`
    consecutive elements of a row.
    """

    kind: Literal["tensor", "channel", "token", "group"]
    group_size: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "group") != (self.group_size is not None):
            raise ConfigError(f"granularity {self.kind} with group_size {self.group_size}: only 'group' has one")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a granularity from text: 'tensor', 'channel', 'token' or 'group(32)'."""
        match = re.fullmatch(r"(tensor|channel|token)|group\((\d+)\)", text)
        if match is None:
            raise ConfigError(f"granularity {text!r}: allowed are tensor, channel, token, group(<size>)")
        if match[1]:
            return cls(match[1])  # type: ignore[arg-type]
        return cls("group", int(match[2]))

    def __str__(self) -> str:
        return f"group({self.group_size})" if self.kind == "group" else self.kind


def group(x: Tensor, group_size: int | None) -> Tensor:
    """Divide the last dimension into groups: (…, d) → (…, d / g, g), where g is the group size.

    Without a group size (None) the whole row is one group.
    """
    width = x.shape[-1]
    size = width if group_size is None else group_size
    check_group_size(size, width, "group")
    return x.unflatten(-1, (width // size, size))


def group_extremes(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each group: (…, groups, g) → two tensors (…, groups).

    The function compares the two halves of the last dimension until one element is left. On CPUs this is several times
    faster than a reduction over a short last dimension.
    """
    low = high = groups
    size = groups.shape[-1]
    while size > 1 and size % 2 == 0:
        size //= 2
        low = torch.minimum(low[..., :size], low[..., size:])
        high = torch.maximum(high[..., :size], high[..., size:])
    return low.amin(dim=-1), high.amax(dim=-1)


def ungroup(x: Tensor) -> Tensor:
    """Undo `group`: join the groups of each row, (…, groups, g) → (…, d)."""
    return x.flatten(-2)


def minmax_asymmetric(low: Tensor, high: Tensor, bits: int, *, include_zero: bool = True) -> tuple[Tensor, Tensor]:
    """Scale and zero point from the smallest and largest values, by Q-DiT's Eq. 7–8 as its released code computes them.

    The zero point is rounded and clamped to the codes. With `include_zero` the range is first extended to contain 0.
    Without it (as in the released code) the zero point of a range that lacks 0 is clamped, and a group of positive
    values then collapses to one value.
    """
    if include_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    levels = 2**bits - 1
    scale = (high - low).clamp(min=SMALLEST_RANGE) / levels
    return scale, (-low / scale).round().clamp(0, levels)


def minmax_symmetric(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale for symmetric codes in [−2^(b−1), 2^(b−1) − 1]; the zero point is 0 (as Q-DiT's code can be set)."""
    bound = torch.maximum(low.abs(), high.abs()).clamp(min=SMALLEST_RANGE)
    scale = bound / (2 ** (bits - 1) - 1)
    return scale, torch.zeros_like(scale)


def code_range(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest code of this number of bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, symmetric: bool = False) -> Tensor:
    """Codes of x: whole numbers, stored as floating point. Scale and zero point are broadcast against x."""
    low, high = code_range(bits, symmetric=symmetric)
    return (x / scale).round_().add_(zero_point).clamp_(low, high)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Values that the codes stand for: (codes − zero_point) · scale."""
    return (codes - zero_point).mul_(scale)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, symmetric: bool = False) -> Tensor:
    """Quantize x and dequantize it again in floating point (Q-DiT Eq. 1)."""
    low, high = code_range(bits, symmetric=symmetric)
    codes = (x / scale).round_().add_(zero_point).clamp_(low, high)
    return codes.sub_(zero_point).mul_(scale)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes, integers (rows, width) from 0 to 2^bits − 1, into bytes (rows, ⌈width · bits / 8⌉); 1 to 8 bits.

    A row is one string of bits, least significant bit first, padded with zeros to whole bytes. At 4 bits a byte holds
    two codes (the first in its low half). At 6 bits three bytes hold four codes. At 8 bits the codes are the bytes.
    Raises CheckpointError for codes that do not fit.
    """
    _check_packable(bits)
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise CheckpointError(
            f"codes from {int(codes.min())} to {int(codes.max())} do not fit {bits} bits: allowed are 0 to"
            f" {2**bits - 1}; quantize again with these bits"
        )
    small = codes.detach().cpu().to(torch.uint8).numpy()
    strings = np.unpackbits(small[:, :, None], axis=2, count=bits, bitorder="little").reshape(len(small), -1)
    return torch.from_numpy(np.packbits(strings, axis=1, bitorder="little")).to(codes.device)


def unpack_codes(packed: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
    """Undo `pack_codes`: uint8 (rows, bytes of a row) → int16 codes of `shape` (rows, width).

    Raises CheckpointError if the bytes cannot be codes of this shape.
    """
    _check_packable(bits)
    rows, width = shape
    expected = (rows, packed_width(width, bits))
    if tuple(packed.shape) != expected or packed.dtype != torch.uint8:
        raise CheckpointError(
            f"packed codes are {packed.dtype} {tuple(packed.shape)}: {bits}-bit codes of shape {(rows, width)} are"
            f" torch.uint8 {expected}; the file is damaged or of another model"
        )
    strings = np.unpackbits(packed.cpu().numpy(), axis=1, count=width * bits, bitorder="little")
    small = np.packbits(strings.reshape(rows, width, bits), axis=2, bitorder="little")[:, :, 0]
    return torch.from_numpy(small).to(packed.device, torch.int16)


def _check_packable(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ConfigError(f"codes of {bits} bits cannot be packed: allowed are 1 to 8 bits")
