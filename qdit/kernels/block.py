"""Calls of the compiled library for a DiT block in training: what the block computes between its matrix products.

The caller computes the products, with torch. Tensors are contiguous float32 on the CPU, and one thread computes. All
variants of the library give the same bits. csrc/block.h describes the same structure.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from qdit.kernels.backend import Backend
from qdit.kernels.inputs import EPSILON

LINEARS = ("qkv", "proj", "fc1", "fc2")
OPERANDS = ("q", "k", "p", "v")
"""Operands of attention; p is the softmax output."""
GRIDS = (*LINEARS, *OPERANDS)
"""What has a quantizer: the inputs of the linears, and the operands."""
LANES = 16
"""Widths are multiples of this number. Queries of a head are padded to it."""
MODULATIONS = 6

Grid = tuple[float, float, int]
"""Scale, zero point, levels. 0 levels: no quantizer."""


class Stage(IntEnum):
    """The passes of the library in one training iteration, in their order. Products of the linears lie between them."""

    FIRST_NORM = 0
    ATTENTION = 1
    SECOND_NORM = 2
    GELU = 3
    LOSS = 4
    GELU_BACKWARD = 5
    SECOND_BACKWARD = 6
    ATTENTION_BACKWARD = 7
    FIRST_BACKWARD = 8


_FOUR, _EIGHT = ctypes.c_void_p * len(LINEARS), len(GRIDS)


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "tokens", "heads", "channels", "width", "hidden")),
        *((name, ctypes.c_float) for name in ("epsilon", "attention_scale", "power")),
        *((name, ctypes.c_void_p) for name in ("chosen", "x", "targets", "modulation")),
        ("modulation_of_all", ctypes.c_int64),
        ("bias", _FOUR),
        ("factor", ctypes.c_void_p),
        ("grids", (ctypes.c_float * 3) * _EIGHT),
        *((name, _FOUR) for name in ("entered", "rounded", "output", "of_output", "of_entered")),
        *((name, ctypes.c_void_p) for name in ("middle", "slope", "gradient", "statistics", "weights")),
        ("of_modulation", ctypes.c_void_p),
        ("of_scales", ctypes.c_double * _EIGHT),
        ("error", ctypes.c_double),
    )


@dataclass(frozen=True)
class Shape:
    """Sizes of a block's computation: samples, tokens per sample, heads, width of a token, hidden width of the MLP."""

    samples: int
    tokens: int
    heads: int
    width: int
    hidden: int

    def fits(self, compiled_backend: Backend) -> bool:
        """Whether the library can compute a block of this shape."""
        assert compiled_backend.library is not None
        most_tokens, most_channels = (compiled_backend.library.qdit_attention_limit(of) for of in (0, 1))
        whole = self.width % self.heads == 0 and self.width % LANES == 0 and self.hidden % LANES == 0
        return whole and 0 < self.tokens <= most_tokens and self.width // self.heads <= most_channels


class BlockBuffers:
    """Memory of one training iteration of a block, and the passes over it. The linears' products use this memory too.

    Rows are tokens: R = samples · tokens. For each linear: `rounded` (R, in) is its quantized input, `output` (R, out),
    and their gradients are `of_entered` (R, in) and `of_output` (R, out). A product is written to `output` without its
    bias; the next pass adds it. Inputs before their quantizer are kept for the linears in `quantized`. `of_modulation`
    (samples, 6, width) exists if `learns_modulation`.
    """

    def __init__(
        self,
        compiled_backend: Backend,
        shape: Shape,
        biases: Sequence[Tensor],
        *,
        quantized: Sequence[str] = (),
        factor: Tensor | None = None,
        learns_modulation: bool = False,
    ) -> None:
        assert compiled_backend.library is not None
        self.variant, self.shape = compiled_backend.variant, shape
        self._run = compiled_backend.library.qdit_block_pass
        rows, width, hidden = shape.samples * shape.tokens, shape.width, shape.hidden
        ins, outs = (width, width, width, hidden), (3 * width, width, hidden, width)
        entered = [torch.empty(rows, size) for size in ins]
        self.rounded = [
            torch.empty_like(x) if name in quantized else x for name, x in zip(LINEARS, entered, strict=True)
        ]
        self.output = [torch.empty(rows, size) for size in outs]
        self.of_output = [torch.empty(rows, size) for size in outs]
        # The gradient of the GELU takes the place of that of its output.
        self.of_entered = [*(torch.empty(rows, size) for size in ins[:3]), self.of_output[2]]
        self.of_modulation = torch.empty(shape.samples, MODULATIONS, width) if learns_modulation else None
        padded = -(-shape.tokens // LANES) * LANES
        sizes = {"middle": rows * width, "slope": rows * hidden, "gradient": rows * width, "statistics": 4 * rows}
        sizes["weights"] = shape.samples * shape.heads * shape.tokens * padded
        single = {name: torch.empty(size) for name, size in sizes.items()}
        self._kept = (entered, single, factor, list(biases))
        self.block = _Block(
            samples=shape.samples,
            tokens=shape.tokens,
            heads=shape.heads,
            channels=width // shape.heads,
            width=width,
            hidden=hidden,
            epsilon=EPSILON,
            attention_scale=(width // shape.heads) ** -0.5,
            factor=None if factor is None else factor.data_ptr(),
            of_modulation=None if self.of_modulation is None else self.of_modulation.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in single.items()},
        )
        for name in ("rounded", "output", "of_output", "of_entered"):
            setattr(self.block, name, _FOUR(*(tensor.data_ptr() for tensor in getattr(self, name))))
        self.block.bias = _FOUR(*(bias.data_ptr() for bias in biases))
        self.block.entered = _FOUR(*(tensor.data_ptr() for tensor in entered))
        assert compiled_backend.library.qdit_block_bytes() == ctypes.sizeof(_Block)
        self._address = ctypes.addressof(self.block)

    def begin(
        self, chosen: Tensor, x: Tensor, targets: Tensor, modulation: Tensor, *, of_all: bool, power: float
    ) -> None:
        """Set what an iteration reads: the samples with indices `chosen` (n,) int64 of x and targets (N, T, D).

        `modulation` (n, 6 · D) has the rows of these samples; (N, 6 · D), with `of_all`, those of all samples. The
        caller keeps the tensors until the iteration ends.
        """
        block = self.block
        block.chosen, block.x, block.targets = chosen.data_ptr(), x.data_ptr(), targets.data_ptr()
        block.modulation, block.modulation_of_all, block.power = modulation.data_ptr(), of_all, power

    def set_grids(self, grids: Mapping[int, Grid]) -> None:
        """Set scale, zero point and levels of each quantizer; a key is the quantizer's index in `GRIDS`."""
        for index, grid in grids.items():
            self.block.grids[index][:] = grid

    def run(self, stage: Stage) -> None:
        """Compute one pass, for example `Stage.ATTENTION`."""
        self._run(self.variant, stage, self._address)

    @property
    def error(self) -> float:
        """Return Σ |output − target|^power / (samples · width), which the last LOSS pass computed."""
        return float(self.block.error)

    def of_scale(self, index: int) -> float:
        """Return the gradient of a quantizer's scale; `index` is the quantizer's index in `GRIDS`."""
        return float(self.block.of_scales[index] / self.block.grids[index][0])
