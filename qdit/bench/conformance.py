"""Check other libraries before they are timed: a library whose product is wrong is not timed.

Each library is given random codes, scales and zero points. It must compute the product that these numbers define, at
one row and at all rows. Libraries that quantize their input get a tolerance for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qdit.bench.layers import Operands

Call = Callable[[], object]

EXACT = 1e-4
"""Largest relative distance of a product of given codes."""
DYNAMIC = 0.02
"""Largest relative distance of a product whose input the library rounds to 8 bits in groups."""


class Missing(Exception):
    """Raised if a library cannot be measured here. The message is the reason."""


@dataclass(frozen=True)
class Peer:
    """A library's product that can be timed, the product (rows, outputs) that it must equal, and the allowed distance.

    `read` converts the result of `call` to a tensor (rows, outputs).
    """

    call: Call
    read: Callable[[object], Tensor]
    expected: Tensor
    tolerance: float = DYNAMIC

    def distance(self) -> float:
        """Relative distance of the library's product to the expected product.

        It is the norm of the difference, divided by the norm of the expected product.
        """
        result = self.read(self.call()).double()
        if result.shape != self.expected.shape:
            return float("inf")
        return float((result - self.expected).norm() / self.expected.norm())


def conforming(make: Callable[[Operands], Peer], o: Operands) -> Call:
    """Return the call of a library that computes the right product at one row and at all rows.

    Raises Missing if a product is wrong.
    """
    for rows in sorted({1, len(o.x)}):
        peer = make(Operands(o.x[:rows], o.weight, o.bias))
        distance = peer.distance()
        if not distance <= peer.tolerance:
            where = "one row" if rows == 1 else f"{rows} rows"
            raise Missing(
                f"gives a wrong product at {where} (relative distance {distance:.2g}, allowed {peer.tolerance})"
            )
    return peer.call


def linear(x: Tensor, codes: Tensor, zero_point: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Compute x ŵᵀ + bias in float64, where ŵ = (codes − zero_point) · scale.

    codes are (outputs, groups, group size), zero_point and scale (outputs, groups, 1).
    """
    weight = ((codes.double() - zero_point.double()) * scale.double()).flatten(1)
    product = x.double() @ weight.T
    return product if bias is None else product + bias.double()


def tensor(value: Any) -> Tensor:
    """Result of a call, which must be a tensor."""
    assert isinstance(value, Tensor)
    return value


def random_codes(o: Operands, group_size: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw 4-bit codes, 4-bit zero points and scales in the shapes that `linear` takes. Scales are exact in float16."""
    outputs, inputs = o.weight.shape
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs // group_size)
    codes = torch.randint(16, (*shape, group_size), generator=generator, dtype=torch.uint8)
    zero_point = torch.randint(16, (*shape, 1), generator=generator, dtype=torch.uint8)
    scale = (torch.rand((*shape, 1), generator=generator) * 0.01 + 0.001).half().float()
    return codes, zero_point, scale


def nibbles(values: Tensor) -> Tensor:
    """Pack 4-bit values along the last dimension, two in a byte, the first in the low half. An odd number is padded."""
    padded = torch.nn.functional.pad(values, (0, values.shape[-1] % 2))
    return padded[..., 0::2] | (padded[..., 1::2] << 4)
