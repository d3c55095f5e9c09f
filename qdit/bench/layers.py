"""Layers that the benchmarks time: shapes of DiT-XL/2's four linears, random operands and random packed weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qdit.kernels.packing import PackedWeight, pack_weight

DIT_XL_LINEARS = ((1152, 3456), (1152, 1152), (1152, 4608), (4608, 1152))
"""(inputs, outputs) of qkv, attention output, fc1 and fc2."""

GROUP_SIZES = (32, 64, 128, 192, 288)


@dataclass(frozen=True)
class Operands:
    """Input (rows, inputs), weight (outputs, inputs) and bias (outputs,) of a linear, float32."""

    x: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def operations(self) -> int:
        """Number of multiplications and additions in one product."""
        return 2 * self.x.numel() * len(self.weight)


def operands(rows: int, inputs: int, outputs: int) -> Operands:
    """Draw random operands of a linear: normal numbers, the same at every call."""
    generator = torch.Generator().manual_seed(rows + inputs + outputs)
    x, weight = (torch.randn(n, inputs, generator=generator) for n in (rows, outputs))
    return Operands(x, weight, torch.randn(outputs, generator=generator))


def random_packed(inputs: int, outputs: int, group_size: int, bits: int) -> PackedWeight:
    """Make a packed weight (in the kernels' memory layout) of random codes, scales and zero points."""
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (outputs, inputs), generator=generator, dtype=torch.int16)
    shape = (outputs, inputs // group_size)
    scale = torch.rand(shape, generator=generator) * 0.01 + 0.001
    zero_point = torch.randint(2**bits, shape, generator=generator, dtype=torch.int16)
    return pack_weight(codes, scale, zero_point, bits=bits)
