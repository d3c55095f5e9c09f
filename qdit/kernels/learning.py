"""Calls of the compiled library for reconstruction: learned rounding, learned scales and tanh-GELU, with gradients.

It also calls the search for the grid (scale, zero point) with the smallest error. Learned rounding starts
from this grid.

Tensors are float32 on the CPU. One thread computes. If `qdit.kernels.dispatch.learning_backend` gives no backend, torch
computes everything.
"""

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qdit.kernels.backend import Backend

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Parameters of Adam; rounding.cpp has the same values."""

DENSE = 0.9
"""Share of the elements of a site from which on none are dropped: dropping costs a pass."""


def _library(compiled_backend: Backend) -> ctypes.CDLL:
    assert compiled_backend.library is not None
    return compiled_backend.library


@dataclass
class RoundingState:
    """State of Adam for the rounding of a site's weight: a flat array of the elements that are undecided (0 < h < 1).

    `index` (int32) is the position of each element in the weight. The soft weight is base + h(α) · span, with `base`
    and `span`. After `settle`, `all_alpha` (out, in) has the α of all elements.
    """

    index: Tensor
    base: Tensor
    span: Tensor
    alpha: Tensor
    mean: Tensor
    square: Tensor
    all_alpha: Tensor

    @classmethod
    def of(cls, alpha: Tensor, base: Tensor, span: Tensor) -> "RoundingState":
        """Make the state before the first step. Its `all_alpha` is the tensor α (out, in) itself."""
        flat = alpha.flatten().clone()
        index = torch.arange(flat.numel(), dtype=torch.int32)
        values = (base.flatten().clone(), span.expand_as(alpha).flatten().clone(), flat)
        return cls(index, *values, torch.zeros_like(flat), torch.zeros_like(flat), alpha)

    def __len__(self) -> int:
        return self.index.numel()

    def step(
        self,
        compiled_backend: Backend,
        gradient: Tensor,
        weight: Tensor,
        *,
        steps: int,
        rate: float,
        power: float,
        pull: float,
    ) -> int:
        """Take Adam's step number `steps` (from 1), update the soft weight, and return how many elements are undecided.

        `gradient` is the gradient of the weight. The regularizer is `pull` / (2 (power + 1)) · Σ (1 − |2h − 1|^(power +
        1)).
        """
        first, second = (1 - beta**steps for beta in BETAS)
        open_elements = int(
            _library(compiled_backend).qdit_rounding_step(
                *(compiled_backend.variant, len(self), self.index.data_ptr(), gradient.data_ptr()),
                *(self.base.data_ptr(), self.span.data_ptr(), self.alpha.data_ptr()),
                *(self.mean.data_ptr(), self.square.data_ptr(), weight.data_ptr()),
                *(power, pull, rate / first, 1 / math.sqrt(second)),
            )
        )
        if open_elements < DENSE * len(self):
            self.settle(compiled_backend)
        return open_elements

    def settle(self, compiled_backend: Backend) -> None:
        """Write the α of all elements into `all_alpha`, and drop the elements that have decided from the state."""
        kept = _library(compiled_backend).qdit_rounding_keep_open(
            *(len(self), self.index.data_ptr(), self.base.data_ptr(), self.span.data_ptr(), self.alpha.data_ptr()),
            *(self.mean.data_ptr(), self.square.data_ptr(), self.all_alpha.data_ptr()),
        )
        for name in ("index", "base", "span", "alpha", "mean", "square"):
            setattr(self, name, getattr(self, name)[:kept])


def on_grid(compiled_backend: Backend, x: Tensor, scale: float, zero_point: float, levels: int) -> Tensor:
    """Quantize and dequantize contiguous x with one scale."""
    y = torch.empty_like(x)
    _library(compiled_backend).qdit_on_grid(
        compiled_backend.variant, x.numel(), x.data_ptr(), scale, zero_point, float(levels), y.data_ptr()
    )
    return y


def through_grid(
    compiled_backend: Backend, x: Tensor, gradient: Tensor, scale: float, zero_point: float, levels: int
) -> tuple[Tensor, float]:
    """Compute the gradients of x and of the scale (LSQ) from the output's gradient. Both tensors are contiguous."""
    passed = torch.empty_like(x)
    total = _library(compiled_backend).qdit_through_grid(
        *(compiled_backend.variant, x.numel(), x.data_ptr(), gradient.data_ptr(), scale, zero_point, float(levels)),
        passed.data_ptr(),
    )
    return passed, total / scale


def gelu(compiled_backend: Backend, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute GELU(x), in its tanh form, and the derivative at x. x is contiguous."""
    y, slope = torch.empty_like(x), torch.empty_like(x)
    _library(compiled_backend).qdit_gelu(
        compiled_backend.variant, x.numel(), x.data_ptr(), y.data_ptr(), slope.data_ptr()
    )
    return y, slope


def lowest_error(
    compiled_backend: Backend,
    rows: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    *,
    levels: int,
    power: float,
    default: int,
) -> Tensor:
    """Return the index (R, 1) int64 of the grid with the smallest Σ |x − x̂|^power, for each row of `rows` (R, n).

    `scales` and `zero_points` are (R, C), one column per grid. Sums are float32 within 1024 values, then float64. Of
    grids with equal errors the first wins. If no sum of a row is finite, its index is `default`.
    """
    count, width = rows.shape
    candidates = scales.shape[1]
    rows, scales, zero_points = rows.contiguous(), scales.contiguous(), zero_points.contiguous()
    index = torch.empty(count, 1, dtype=torch.int64)
    heads, order = torch.empty(candidates, dtype=torch.float64), torch.empty(candidates, dtype=torch.int64)
    _library(compiled_backend).qdit_lowest_error(
        *(compiled_backend.variant, count, width, candidates),
        *(rows.data_ptr(), scales.data_ptr(), zero_points.data_ptr(), float(levels), power, default),
        *(heads.data_ptr(), order.data_ptr(), index.data_ptr()),
    )
    return index
