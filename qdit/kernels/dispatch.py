"""The public operations of the kernels; each picks its backend from the input.

Contiguous float32 tensors on CPUs go to compiled code, tensors on GPUs to Triton, all others to torch.
"""

from typing import Any

import torch
from torch import Tensor

from qdit.kernels import compiled, reference
from qdit.kernels.backend import Backend
from qdit.kernels.inputs import LateInput
from qdit.kernels.library import backend
from qdit.kernels.packing import LARGEST_GROUP, PackedWeight
from qdit.kernels.parts import NO_PARTS, Parts, check_parts
from qdit.kernels.reference import check_bits, check_linear, check_static, not_finite

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, *HALVES)
"""What Triton reads; float64 goes to the reference."""


def grouped_linear(
    x: Tensor | LateInput,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    activation_bits: int = 8,
    symmetric: bool = False,
    input_group: int | None = None,
    static: tuple[Tensor, Tensor] | None = None,
    parts: Parts = NO_PARTS,
    threads: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Quantize x (…, width) for each token and group and multiply it by the packed weight: (…, outputs).

    `input_group` inputs share a range. It is a multiple of the weight's group size, by default equal to it. `static`
    gives all tokens the same ranges: (scale, zero_point), each (1,) or (width / input_group,), zero points 0 … 255.
    `parts` are the transform of x before it is quantized, and the low-rank branch beside the product. The number of
    threads changes no bit. Sums are computed in float32, then rounded once to `dtype`, by default the type of x. There
    are no gradients. A `LateInput` is a LayerNorm or a GELU that is not computed yet; a GPU computes it in the pass
    that quantizes. Raises ConfigError (shapes, bits), and Unsupported if the input or the result is not finite or a
    zero point is outside 0 … 255.
    """
    bias = None if bias is None else bias.detach()
    tensors = [t for t in (weight.codes, bias, *(static or ()), *parts.tensors()) if t is not None]
    late = None if isinstance(x, Tensor) else x
    if late is not None and (parts.branch is not None or not takes_late(late, *tensors)):
        x, late = computed(late), None
    rows = x.x if isinstance(x, LateInput) else x
    size = check_linear(rows, weight, bias, activation_bits, input_group=input_group, static=static)
    check_parts(parts, weight.width, weight.outputs)
    x = rows.detach()
    options: dict[str, Any] = {"activation_bits": activation_bits, "symmetric": symmetric, "parts": parts}
    if late is not None or _on_triton(x, *tensors):
        from qdit.kernels import triton_linear

        options |= {"input_group": size, "static": static, "dtype": dtype}
        with torch.cuda.device_of(x):
            return _finite(triton_linear.grouped_linear(x if late is None else late, weight, bias, **options))
    y = _on_cpu(x, weight, bias, tensors, size, static, options, threads)
    return y if dtype in (None, y.dtype) else _finite_half(y.to(dtype))


def _on_cpu(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    tensors: list[Tensor],
    size: int,
    static: tuple[Tensor, Tensor] | None,
    options: dict[str, Any],
    threads: int,
) -> Tensor:
    """`grouped_linear` in the compiled library, or in torch for what it does not take."""
    full = x.float() if x.dtype in HALVES else x
    compiled_backend = _compiled_for(full, *tensors)
    if compiled_backend is None:
        return reference.grouped_linear(x, weight, bias, input_group=size, static=static, **options)
    offset = None if bias is None else bias.float().contiguous()
    ranges = None if static is None else (static[0].float().contiguous(), static[1].float().contiguous())
    y = _finite(
        compiled.grouped_linear(
            compiled_backend, full, weight, offset, threads=threads, input_group=size, static=ranges, **options
        )
    )
    return y if full is x else _finite_half(y.to(x.dtype))


def quantized_rows(x: Tensor | LateInput, group_size: int, bits: int) -> object:
    """Return codes and ranges of x (…, width) as the kernels of its device write them, for benchmarks."""
    values = x if isinstance(x, Tensor) else x.x
    if _on_triton(values):
        from qdit.kernels import triton_quantize

        options: dict[str, Any] = {"shared": group_size, "size": group_size, "symmetric": False}
        with torch.cuda.device_of(values):
            rows = x.flatten(0, -2) if isinstance(x, Tensor) else x
            return triton_quantize.quantize_rows(rows, bits, static=None, totals=False, **options)
    return reference.quantize_groups(x if isinstance(x, Tensor) else computed(x), group_size, bits)


def takes_late(late: LateInput, *others: Tensor) -> bool:
    """Whether a kernel can compute this LayerNorm or GELU in the pass that quantizes. Only kernels on GPUs can."""
    if not _on_triton(late.x, *others) or not _plain(*late.tensors()):
        return False
    from qdit.kernels import triton_inputs

    return triton_inputs.fits(late)


def computed(late: LateInput) -> Tensor:
    """Compute a LayerNorm or GELU that was put off, in the type of its x. On a GPU it has the fused kernel's bits."""
    if not takes_late(late):
        return late.computed()
    from qdit.kernels import triton_inputs

    with torch.cuda.device_of(late.x):
        return triton_inputs.computed(late)


def fake_quantize_groups(
    x: Tensor, group_size: int | None, bits: int, *, symmetric: bool = False, threads: int = 1
) -> Tensor:
    """Quantize and dequantize x (…, d). Each (token, group) has its own range, as in `DynamicActivation`."""
    size = x.shape[-1] if group_size is None else group_size
    fits = _groups_fit(x, size, bits)
    if fits and size <= LARGEST_GROUP and _on_triton(x):
        from qdit.kernels import triton_fake

        with torch.cuda.device_of(x):
            return triton_fake.fake_quantize_groups(x.contiguous(), size, bits, symmetric=symmetric)
    compiled_backend = _compiled_for(x) if fits else None
    if compiled_backend is not None:
        y = compiled.fake_quantize_groups(compiled_backend, x, size, bits, symmetric=symmetric, threads=threads)
        if y is not None:
            return y
    return reference.fake_quantize_groups(x, group_size, bits, symmetric=symmetric)


def fake_quantize_static(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, threads: int = 1) -> Tensor:
    """Quantize and dequantize x (…, d) with given scale and zero_point (groups,), as `StaticActivation` does."""
    check_bits(bits)
    check_static(x, scale, zero_point)
    if scale.ndim == 1 and scale.dtype in FLOATS and _on_triton(x, scale, zero_point):
        from qdit.kernels import triton_fake

        with torch.cuda.device_of(x):
            return triton_fake.fake_quantize_static(x.contiguous(), scale, zero_point, bits)
    compiled_backend = _compiled_for(x, scale, zero_point) if scale.dtype == torch.float32 else None
    if compiled_backend is not None:
        y = compiled.fake_quantize_static(
            compiled_backend, x, scale.contiguous(), zero_point.float().contiguous(), bits, threads=threads
        )
        if y is not None:
            return y
    return reference.fake_quantize_static(x, scale, zero_point, bits)


def narrow_groups(
    x: Tensor | LateInput, group_size: int | None, bits: int, dtype: torch.dtype, *, symmetric: bool
) -> Tensor:
    """Do `fake_quantize_groups` in float32 on x of any precision, and round to `dtype`: on a GPU in one pass.

    It reads and writes half precision, 4 bytes for each value. Separate conversions would read and write 20 bytes. A
    `LateInput` is computed in the same pass.
    """
    size = x.shape[-1] if group_size is None else group_size
    x = x if isinstance(x, Tensor) or takes_late(x) else computed(x)
    values = x if isinstance(x, Tensor) else x.x
    if _groups_fit(values, size, bits) and size <= LARGEST_GROUP and _on_triton(values):
        from qdit.kernels import triton_fake

        with torch.cuda.device_of(values):
            rows = x.contiguous() if isinstance(x, Tensor) else x
            return triton_fake.fake_quantize_groups(rows, size, bits, symmetric=symmetric, narrow=dtype)
    x = x if isinstance(x, Tensor) else computed(x)
    return fake_quantize_groups(x.float(), group_size, bits, symmetric=symmetric).to(dtype)


def narrow_static(x: Tensor | LateInput, scale: Tensor, zero_point: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Do `fake_quantize_static` in float32 on x of any precision, and round to `dtype`: on a GPU in one pass.

    A `LateInput` is computed in the same pass.
    """
    x = x if isinstance(x, Tensor) or takes_late(x, scale, zero_point) else computed(x)
    values = x if isinstance(x, Tensor) else x.x
    check_bits(bits)
    check_static(values, scale, zero_point)
    if scale.ndim == 1 and scale.dtype == torch.float32 and _on_triton(values, scale, zero_point):
        from qdit.kernels import triton_fake

        with torch.cuda.device_of(values):
            rows = x.contiguous() if isinstance(x, Tensor) else x
            return triton_fake.fake_quantize_static(rows, scale, zero_point, bits, narrow=dtype)
    x = x if isinstance(x, Tensor) else computed(x)
    return fake_quantize_static(x.float(), scale, zero_point, bits).to(dtype)


def _groups_fit(x: Tensor, size: int, bits: int) -> bool:
    """Whether the kernels can quantize x (…, d) in groups of this size."""
    return size >= 4 and size % 4 == 0 and x.shape[-1] % size == 0 and 2 <= bits <= 8


def learning_backend(*tensors: Tensor) -> Backend | None:
    """Return the compiled backend if it can compute with these tensors, otherwise None.

    The tensors may be those of a backward pass.
    """
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return None
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return None
    backend_in_use = backend()
    return None if backend_in_use.library is None else backend_in_use


def _finite(y: Tensor | None) -> Tensor:
    if y is None:
        raise not_finite()
    return y


def _finite_half(y: Tensor) -> Tensor:
    """A result that was rounded to half precision, where finite numbers can become infinite."""
    return _finite(y if y.isfinite().all() else None)


def _on_triton(x: Tensor, *others: Tensor) -> bool:
    """Whether Triton can compute with these tensors and no gradients are needed."""
    if not x.is_cuda or x.dtype not in FLOATS or x.numel() == 0 or not _plain(x, *others):
        return False
    from qdit.kernels.triton_backend import usable

    return usable(x.device)


def _plain(x: Tensor, *others: Tensor) -> bool:
    """Ordinary tensors on one device, without gradients to compute."""
    tensors = (x, *others)
    if any(t.device != x.device or type(t) not in (Tensor, torch.nn.Parameter) for t in tensors):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def _compiled_for(x: Tensor, *others: Tensor) -> Backend | None:
    """The compiled backend if it can compute with these tensors and no gradients are needed."""
    if x.dtype != torch.float32 or not x.is_contiguous() or x.numel() == 0:
        return None
    if x.device.type != "cpu" or not _plain(x, *others):
        return None
    backend_in_use = backend()
    return None if backend_in_use.library is None else backend_in_use
