"""Calls of the compiled library for linears and quantizers. Inputs are contiguous float32 CPU tensors; outputs are new.

A function returns None if a number is not finite. The caller decides whether this is an error.
"""

import ctypes

import torch
from torch import Tensor

from qdit.kernels.backend import Backend
from qdit.kernels.packing import PackedWeight
from qdit.kernels.parts import NO_PARTS, STEP_KINDS, Parts, Step

NOT_FINITE = 1


class CStep(ctypes.Structure):
    """The C structure `TransformStep` of csrc/kernel.h: one step of an input transform."""

    _fields_ = (("kind", ctypes.c_int32), ("size", ctypes.c_int64), ("values", ctypes.c_void_p))


def grouped_linear(
    backend: Backend,
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    *,
    activation_bits: int,
    symmetric: bool,
    threads: int,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
    parts: Parts = NO_PARTS,
) -> Tensor | None:
    """Quantize x (…, width) and multiply it by a packed weight: (…, outputs), as `dispatch.grouped_linear` describes.

    `static` is float32 scale and zero_point, one pair per `input_group` inputs.
    """
    y = torch.empty(*x.shape[:-1], weight.outputs)
    pairs = 0 if weight.zero_pairs is None else weight.zero_pairs.data_ptr()
    status = _of(backend).qdit_grouped_linear(
        *(backend.variant, x.data_ptr(), _rows(x), weight.width, weight.outputs, weight.group_size, weight.storage),
        *(weight.codes.data_ptr(), weight.scale.data_ptr(), weight.sums.data_ptr(), weight.zeros.data_ptr(), pairs),
        *(0 if bias is None else bias.data_ptr(), weight.group_size if input_group is None else input_group),
        *((0, 0) if static is None else (static[0].data_ptr(), static[1].data_ptr())),
        *(activation_bits, symmetric, *_of_parts(parts), threads, y.data_ptr()),
    )
    return _checked(status, y)


def transformed(backend: Backend, x: Tensor, steps: tuple[Step, ...]) -> Tensor:
    """Apply the steps of an input transform to x (…, width). `grouped_linear` quantizes the result."""
    y = torch.empty_like(x)
    arguments = _of_parts(Parts(steps))[:2]
    status = _of(backend).qdit_transform(backend.variant, x.data_ptr(), _rows(x), x.shape[-1], *arguments, y.data_ptr())
    _checked(status, y)
    return y


def _of_parts(parts: Parts) -> tuple[object, ...]:
    """Arguments of the library for `parts`: number of steps, the steps, rank, down and up."""
    numbers = [0 if step.values is None else step.values.data_ptr() for step in parts.steps]
    steps = [CStep(STEP_KINDS.index(s.kind), s.size, at) for s, at in zip(parts.steps, numbers, strict=True)]
    branch = parts.branch
    thin = (0, None, None) if branch is None else (branch.down.shape[1], branch.down.data_ptr(), branch.up.data_ptr())
    return len(steps), (CStep * len(steps))(*steps), *thin


def quantize_groups(
    backend: Backend, x: Tensor, group_size: int, bits: int, *, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Quantize x (…, d) for `grouped_linear`: codes (…, d) uint8, scale and zero_point (…, groups)."""
    codes = torch.empty(x.shape, dtype=torch.uint8)
    scale = torch.empty(*x.shape[:-1], x.shape[-1] // group_size)
    zero = torch.empty_like(scale)
    status = _of(backend).qdit_quantize_groups(
        *(backend.variant, x.data_ptr(), _rows(x), x.shape[-1], group_size, bits, symmetric),
        *(codes.data_ptr(), scale.data_ptr(), zero.data_ptr()),
    )
    return None if _checked(status, codes) is None else (codes, scale, zero)


def fake_quantize_groups(
    backend: Backend, x: Tensor, group_size: int, bits: int, *, symmetric: bool, threads: int
) -> Tensor | None:
    """Quantize and dequantize x (…, d). Each group of each token has its own range."""
    y = torch.empty_like(x)
    status = _of(backend).qdit_fake_quantize_groups(
        *(backend.variant, x.data_ptr(), _rows(x), x.shape[-1], group_size, bits, symmetric, threads, y.data_ptr())
    )
    return _checked(status, y)


def fake_quantize_static(
    backend: Backend, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, threads: int
) -> Tensor | None:
    """Quantize and dequantize x (…, d) with given float32 scale and zero_point (groups,)."""
    y = torch.empty_like(x)
    status = _of(backend).qdit_fake_quantize_static(
        *(backend.variant, x.data_ptr(), _rows(x), x.shape[-1], x.shape[-1] // scale.numel()),
        *(scale.data_ptr(), zero_point.data_ptr(), bits, threads, y.data_ptr()),
    )
    return _checked(status, y)


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _of(backend: Backend) -> ctypes.CDLL:
    assert backend.library is not None
    return backend.library


def _checked(status: int, y: Tensor) -> Tensor | None:
    if status not in (0, NOT_FINITE):
        raise RuntimeError(f"the kernel library refused its arguments or ran out of memory (status {status})")
    return y if status == 0 else None
