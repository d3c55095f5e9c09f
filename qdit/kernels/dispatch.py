"""The public operations: compiled code for contiguous float32 tensors on CPUs, the torch reference for all others."""

import torch
from torch import Tensor

from qdit.kernels import compiled, reference
from qdit.kernels.library import Backend, backend
from qdit.kernels.packing import PackedWeight
from qdit.kernels.reference import check_bits, check_linear, check_static, not_finite


def grouped_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    activation_bits: int = 8,
    symmetric: bool = False,
    threads: int = 1,
) -> Tensor:
    """x (…, width), quantized for each (token, group), times the packed weight: (…, outputs), float32.

    The number of threads changes no bit. There are no gradients. Raises ConfigError (shapes, bits) and Unsupported
    where the input or the result is not finite.
    """
    check_linear(x, weight, bias, activation_bits)
    x, bias = x.detach(), None if bias is None else bias.detach()
    chosen = _compiled_for(x, weight.codes) if bias is None else _compiled_for(x, weight.codes, bias)
    if chosen is None:
        return reference.grouped_linear(x, weight, bias, activation_bits=activation_bits, symmetric=symmetric)
    offset = None if bias is None else bias.float().contiguous()
    y = compiled.grouped_linear(
        chosen, x, weight, offset, activation_bits=activation_bits, symmetric=symmetric, threads=threads
    )
    if y is None:
        raise not_finite()
    return y


def fake_quantize_groups(
    x: Tensor, group_size: int | None, bits: int, *, symmetric: bool = False, threads: int = 1
) -> Tensor:
    """Quantize and dequantize x (…, d) with a range of its own for each (token, group), as `DynamicActivation` does."""
    size = x.shape[-1] if group_size is None else group_size
    chosen = _compiled_for(x) if size >= 4 and size % 4 == 0 and x.shape[-1] % size == 0 and 2 <= bits <= 8 else None
    if chosen is not None:
        y = compiled.fake_quantize_groups(chosen, x, size, bits, symmetric=symmetric, threads=threads)
        if y is not None:
            return y
    return reference.fake_quantize_groups(x, group_size, bits, symmetric=symmetric)


def fake_quantize_static(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, threads: int = 1) -> Tensor:
    """Quantize and dequantize x (…, d) with given scale and zero_point (groups,), as `StaticActivation` does."""
    check_bits(bits)
    check_static(x, scale, zero_point)
    chosen = _compiled_for(x, scale, zero_point) if scale.dtype == torch.float32 else None
    if chosen is not None:
        y = compiled.fake_quantize_static(
            chosen, x, scale.contiguous(), zero_point.float().contiguous(), bits, threads=threads
        )
        if y is not None:
            return y
    return reference.fake_quantize_static(x, scale, zero_point, bits)


def _compiled_for(x: Tensor, *others: Tensor) -> Backend | None:
    """The compiled backend if it can compute with these tensors and nobody asks for gradients."""
    if x.dtype != torch.float32 or not x.is_contiguous() or x.numel() == 0:
        return None
    tensors = (x, *others)
    if any(t.device.type != "cpu" or type(t) not in (Tensor, torch.nn.Parameter) for t in tensors):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return None
    chosen = backend()
    return None if chosen.library is None else chosen
