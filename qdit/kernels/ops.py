"""The same operations as `torch.ops.qdit.*`, for torch.compile and export; importing this module registers them.

They have fake kernels and no gradients. Eager code calls `qdit.kernels.dispatch`, which is faster.
"""

from typing import Any, cast

import torch
from torch import Tensor

from qdit.kernels import dispatch
from qdit.kernels.packing import PackedWeight

LIBRARY = torch.library.Library("qdit", "DEF")

GROUPED_LINEAR = (
    "grouped_linear(Tensor x, Tensor codes, Tensor scale, Tensor sums, Tensor zeros, Tensor? zero_pairs, Tensor? bias,"
    " int bits, int storage, int outputs, int group_size, int activation_bits=8, bool symmetric=False, int threads=1)"
    " -> Tensor"
)
DEFAULTS = (8, False, 1)
"""Default values of the last three arguments of `GROUPED_LINEAR`."""

FAKE_QUANTIZE_GROUPS = (
    "fake_quantize_groups(Tensor x, int group_size, int bits, bool symmetric=False, int threads=1) -> Tensor"
)
FAKE_QUANTIZE_STATIC = (
    "fake_quantize_static(Tensor x, Tensor scale, Tensor zero_point, int bits, int threads=1) -> Tensor"
)


def _grouped_linear(x: Tensor, *arguments: Any) -> Tensor:
    """The operation of the schema; torch leaves out last arguments that have their default."""
    codes, scale, sums, zeros, zero_pairs, bias, bits, storage, outputs, group_size = arguments[:10]
    options: tuple[Any, ...] = arguments[10:] + DEFAULTS[len(arguments) - 10 :]
    activation_bits, symmetric, threads = options
    width = scale.shape[1] * group_size
    weight = PackedWeight(codes, scale, sums, zeros, zero_pairs, bits, storage, outputs, width, group_size)
    return dispatch.grouped_linear(
        x.contiguous(), weight, bias, activation_bits=activation_bits, symmetric=symmetric, threads=threads
    )


def _fake_quantize_groups(x: Tensor, group_size: int, bits: int, symmetric: bool = False, threads: int = 1) -> Tensor:
    return dispatch.fake_quantize_groups(x.contiguous(), group_size, bits, symmetric=symmetric, threads=threads)


def _fake_quantize_static(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, threads: int = 1) -> Tensor:
    return dispatch.fake_quantize_static(x.contiguous(), scale, zero_point, bits, threads=threads)


def _shape_of_linear(x: Tensor, *arguments: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], cast(int, arguments[8])), dtype=torch.float32)


def _shape_of_input(x: Tensor, *arguments: object, **options: object) -> Tensor:
    return x.new_empty(x.shape)


for schema, function, shape in (
    (GROUPED_LINEAR, _grouped_linear, _shape_of_linear),
    (FAKE_QUANTIZE_GROUPS, _fake_quantize_groups, _shape_of_input),
    (FAKE_QUANTIZE_STATIC, _fake_quantize_static, _shape_of_input),
):
    name = LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qdit::{name}", shape, lib=LIBRARY)
