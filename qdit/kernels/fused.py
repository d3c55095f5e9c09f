"""Modulated LayerNorm, and attention of few tokens, each in one pass of the compiled library.

torch needs three passes for the LayerNorm and five for the attention. `modulated_norm` and `attention` return None if
the library cannot compute the input: another dtype or device, tensors that need gradients, many tokens, or no library.
All variants of the library agree to the bit. The result of torch differs in the last digits.
"""

import torch
from torch import Tensor

from qdit.kernels.backend import Backend
from qdit.kernels.inputs import EPSILON
from qdit.kernels.library import backend


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor | None:
    """Compute LN(x)(1 + scale) + shift of contiguous x (N, T, D).

    Shift and scale are (N, D); their rows need not be contiguous.
    """
    compiled_backend = _library_for(x, shift, scale)
    if compiled_backend is None or x.dim() != 3 or not shift.shape == scale.shape == (x.shape[0], x.shape[2]):
        return None
    if shift.stride(1) != 1 or scale.stride(1) != 1:
        return None
    y = torch.empty_like(x)
    assert compiled_backend.library is not None
    compiled_backend.library.qdit_norm_modulate(
        *(compiled_backend.variant, x.data_ptr(), *x.shape),
        *(shift.data_ptr(), shift.stride(0), scale.data_ptr(), scale.stride(0), EPSILON, y.data_ptr()),
    )
    return y


def attention(qkv: Tensor, heads: int) -> Tensor | None:
    """Compute softmax(q kᵀ / √d) v of contiguous qkv (N, T, 3D): (N, T, D), where D is heads · d."""
    compiled_backend = _library_for(qkv)
    if compiled_backend is None or qkv.dim() != 3 or qkv.shape[2] % (3 * heads):
        return None
    assert compiled_backend.library is not None
    n, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    channels = width // heads
    limit = compiled_backend.library.qdit_attention_limit
    if tokens > limit(0) or channels > limit(1):
        return None
    y = qkv.new_empty(n, tokens, width)
    compiled_backend.library.qdit_attention(
        *(compiled_backend.variant, qkv.data_ptr(), n, tokens, heads, channels, channels**-0.5, y.data_ptr())
    )
    return y


def _library_for(x: Tensor, *others: Tensor) -> Backend | None:
    """The compiled backend if x is contiguous float32 on the CPU and no gradients are needed."""
    tensors = (x, *others)
    if torch.compiler.is_compiling():  # torch's own operations fuse with their neighbours
        return None
    if any(t.dtype != torch.float32 or t.device.type != "cpu" or t.numel() == 0 for t in tensors):
        return None
    if not x.is_contiguous() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return None
    backend_in_use = backend()
    return None if backend_in_use.library is None else backend_in_use
