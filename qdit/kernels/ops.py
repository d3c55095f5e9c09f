"""The operations of `qdit.kernels.dispatch` as `torch.ops.qdit.*`, for torch.compile and export.

Importing this module registers them. They have fake kernels (which only compute shapes) and no gradients. Eager code
calls `qdit.kernels.dispatch`, which is faster; compiled integer layers and compiled quantizers
(`qdit.quant.diffusers_layers`) call these operations.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from qdit.kernels import dispatch
from qdit.kernels.packing import PackedWeight
from qdit.kernels.parts import NO_PARTS, STEP_KINDS, Branch, Parts, Step

LIBRARY = torch.library.Library("qdit", "DEF")

GROUPED_LINEAR = (
    "grouped_linear(Tensor x, Tensor codes, Tensor scale, Tensor sums, Tensor zeros, Tensor? zero_pairs, Tensor? bias,"
    " int bits, int storage, int outputs, int group_size, int activation_bits=8, bool symmetric=False, int threads=1,"
    " int? input_group=None, Tensor? static_scale=None, Tensor? static_zero=None, int[] step_kinds=[],"
    " int[] step_sizes=[], Tensor? step_values=None, Tensor? down=None, Tensor? up=None, int rank=0) -> Tensor"
)
DEFAULTS = (8, False, 1, None, None, None, (), (), None, None, None, 0)
"""Default values of the last arguments of `GROUPED_LINEAR`."""

FAKE_QUANTIZE_GROUPS = (
    "fake_quantize_groups(Tensor x, int group_size, int bits, bool symmetric=False, int threads=1,"
    " *, ScalarType? dtype=None) -> Tensor"
)
FAKE_QUANTIZE_STATIC = (
    "fake_quantize_static(Tensor x, Tensor scale, Tensor zero_point, int bits, int threads=1,"
    " *, ScalarType? dtype=None) -> Tensor"
)
"""With `dtype` both compute in float32 and round to that type: `narrow_groups` and `narrow_static`."""


def _grouped_linear(x: Tensor, *arguments: Any) -> Tensor:
    """The operation of the schema; torch leaves out last arguments that have their default."""
    codes, scale, sums, zeros, zero_pairs, bias, bits, storage, outputs, group_size = arguments[:10]
    options: tuple[Any, ...] = arguments[10:] + DEFAULTS[len(arguments) - 10 :]
    activation_bits, symmetric, threads, input_group, static_scale, static_zero = options[:6]
    width = scale.shape[1] * group_size
    weight = PackedWeight(codes, scale, sums, zeros, zero_pairs, bits, storage, outputs, width, group_size)
    return dispatch.grouped_linear(
        x.contiguous(),
        weight,
        bias,
        activation_bits=activation_bits,
        symmetric=symmetric,
        input_group=input_group,
        static=None if static_scale is None else (static_scale, static_zero),
        parts=_parts(outputs, *options[6:]),
        threads=threads,
    )


def _parts(
    outputs: int,
    kinds: Sequence[int],
    sizes: Sequence[int],
    values: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    rank: int,
) -> Parts:
    """The parts of a linear from an operation's arguments; `values` has a row for each step but Hadamard matrices."""
    rest, steps = iter(() if values is None else values.unbind()), []
    for kind, size in zip(kinds, sizes, strict=True):
        name = STEP_KINDS[kind]
        steps.append(Step(name, None if name == "hadamard" else next(rest), size))
    return Parts(tuple(steps), None if down is None or up is None else Branch(down, up, rank, outputs))


def grouped_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    activation_bits: int = 8,
    symmetric: bool = False,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
    parts: Parts = NO_PARTS,
    threads: int = 1,
) -> Tensor:
    """Call `dispatch.grouped_linear` as one operation of a graph: torch.compile does not break the graph here."""
    branch, steps = parts.branch, parts.steps
    values = [step.values for step in steps if step.values is not None]
    return torch.ops.qdit.grouped_linear(
        x,
        *(weight.codes, weight.scale, weight.sums, weight.zeros, weight.zero_pairs, bias),
        *(weight.bits, weight.storage, weight.outputs, weight.group_size, activation_bits, symmetric, threads),
        *(input_group, *((None, None) if static is None else static)),
        [STEP_KINDS.index(step.kind) for step in steps],
        [step.size for step in steps],
        torch.stack(values) if values else None,
        *((None, None, 0) if branch is None else (branch.down, branch.up, branch.rank)),
    )


def _fake_quantize_groups(
    x: Tensor,
    group_size: int,
    bits: int,
    symmetric: bool = False,
    threads: int = 1,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if dtype is not None:
        return dispatch.narrow_groups(x.contiguous(), group_size, bits, dtype, symmetric=symmetric)
    return dispatch.fake_quantize_groups(x.contiguous(), group_size, bits, symmetric=symmetric, threads=threads)


def _fake_quantize_static(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, threads: int = 1, *, dtype: torch.dtype | None = None
) -> Tensor:
    if dtype is not None:
        return dispatch.narrow_static(x.contiguous(), scale, zero_point, bits, dtype)
    return dispatch.fake_quantize_static(x.contiguous(), scale, zero_point, bits, threads=threads)


def _shape_of_linear(x: Tensor, *arguments: object, **options: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], cast(int, arguments[8])))


def _shape_of_input(x: Tensor, *arguments: object, dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype or x.dtype)


for schema, function, shape in (
    (GROUPED_LINEAR, _grouped_linear, _shape_of_linear),
    (FAKE_QUANTIZE_GROUPS, _fake_quantize_groups, _shape_of_input),
    (FAKE_QUANTIZE_STATIC, _fake_quantize_static, _shape_of_input),
):
    name = LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qdit::{name}", shape, lib=LIBRARY)
