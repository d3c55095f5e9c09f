"""Calls of the compiled library for learning a block: attention with quantized operands, and gradients written out.

Tensors are contiguous float32 on the CPU, and torch records no gradients for them. One thread computes. All variants of
the library give the same bits.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qdit.kernels.backend import Backend
from qdit.kernels.fused import EPSILON

OPERANDS = ("q", "k", "p", "v")
"""Operands of attention in the order of the library; p is the softmax output."""
LANES = 16
"""Queries of a head are padded to a multiple of this number."""


def _library(compiled_backend: Backend) -> ctypes.CDLL:
    assert compiled_backend.library is not None
    return compiled_backend.library


def fits(compiled_backend: Backend, tokens: int, channels: int) -> bool:
    """Whether the library computes attention of so many tokens, with so many channels in a head."""
    limit = _library(compiled_backend).qdit_attention_limit
    return bool(tokens <= limit(0) and channels <= limit(1))


def no_grids() -> np.ndarray:
    """Grids (4, 3) of operands without quantizers: a row is (scale, zero point, levels); 0 levels mean no quantizer."""
    return np.array([(1, 0, 0)] * len(OPERANDS), dtype=np.float32)


@dataclass(frozen=True)
class LearningAttention:
    """Softmax(q kᵀ / √d) v with a quantizer of each operand, and its gradients.

    `factor` (heads · d,) multiplies V before its quantizer and divides it after. Grids are those of `no_grids`.
    """

    backend: Backend
    heads: int
    factor: Tensor | None = None

    def forward(self, qkv: Tensor, grids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Output (N, T, D) for qkv (N, T, 3D), and the softmax outputs, which the backward pass needs."""
        n, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        weights = qkv.new_empty(n, self.heads, tokens, -(-tokens // LANES) * LANES)
        y = qkv.new_empty(n, tokens, width)
        _library(self.backend).qdit_learning_attention(*self._arguments(qkv, grids), weights.data_ptr(), y.data_ptr())
        return y, weights

    def backward(self, qkv: Tensor, grids: np.ndarray, weights: Tensor, gradient: Tensor) -> tuple[Tensor, np.ndarray]:
        """Gradients of qkv (N, T, 3D) and of the four scales (4,). The scale of an operand without quantizer has 0."""
        of_qkv, of_scales = torch.empty_like(qkv), np.empty(len(OPERANDS))
        _library(self.backend).qdit_attention_gradients(
            *self._arguments(qkv, grids),
            *(weights.data_ptr(), gradient.data_ptr(), of_qkv.data_ptr(), of_scales.ctypes.data),
        )
        return of_qkv, of_scales / grids[:, 0]

    def _arguments(self, qkv: Tensor, grids: np.ndarray) -> tuple[object, ...]:
        n, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        channels = width // self.heads
        return (
            *(self.backend.variant, qkv.data_ptr(), n, tokens, self.heads, channels, channels**-0.5),
            *(grids.ctypes.data, None if self.factor is None else self.factor.data_ptr()),
        )


def norm_gradients(
    compiled_backend: Backend,
    x: Tensor,
    scale: Tensor,
    gradient: Tensor,
    *,
    of_x: Tensor | None = None,
    of_modulation: Tensor | None = None,
) -> None:
    """Gradients of LN(x)(1 + scale) + shift, for x and its `gradient` (N, T, D) and scale (N, D).

    `of_x` (N, T, D) receives that of x. `of_modulation` (N, 2, D) receives those of shift and scale. The rows of
    `scale` and `of_modulation` need not be contiguous, their values must be.
    """
    rows: tuple[int | None, int | None, int] = (None, None, 0)
    if of_modulation is not None:
        shift, factor = of_modulation.unbind(1)
        rows = (shift.data_ptr(), factor.data_ptr(), of_modulation.stride(0))
    _library(compiled_backend).qdit_norm_gradients(
        *(compiled_backend.variant, x.data_ptr(), *x.shape, scale.data_ptr(), scale.stride(0), EPSILON),
        *(gradient.data_ptr(), None if of_x is None else of_x.data_ptr(), *rows),
    )
