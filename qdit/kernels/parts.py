"""What a grouped linear computes beside its product: an input transform before the quantizer, a low-rank branch after.

Both are plain tensors here, made from the modules of `qdit.quant.transforms` and `qdit.quant.low_rank`. Every step
rounds once and in one order, so that each backend can give the same bits for the transform.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.kernels.packing import COLUMNS

StepKind = Literal["divide", "subtract", "multiply", "hadamard"]

STEP_KINDS: tuple[StepKind, ...] = ("divide", "subtract", "multiply", "hadamard")
"""In the order of `StepKind` in csrc/kernel.h."""

RANKS = 16
"""The rank of a branch is padded with zeros to a multiple of this."""

CHAIN = 64
"""Products of a branch that are added before they are added to the rest, so that long rows stay exact."""


@dataclass(frozen=True)
class Step:
    """One step of an input transform: x / values, x − values, x · values (each (width,)), or blocks times a matrix.

    The matrix is Sylvester's Hadamard matrix of `size` (a power of two) divided by √size. It is computed by sums and
    differences of neighbours, then of elements 2 apart, 4 apart, and so on; the final sums are multiplied by 1 / √size.
    """

    kind: StepKind
    values: Tensor | None = None
    size: int = 0


@dataclass(frozen=True)
class Branch:
    """A low-rank branch up (down x) in float32, padded for the kernels.

    `down` is (width, padded rank), `up` is (panels of 48 outputs, padded rank, 48).
    """

    down: Tensor
    up: Tensor
    rank: int
    outputs: int


@dataclass(frozen=True)
class Parts:
    """The steps of the transform before the quantizer, in order, and the branch beside the product; both optional."""

    steps: tuple[Step, ...] = ()
    branch: Branch | None = None

    def to(self, device: torch.device | str) -> "Parts":
        """Return the same transform and branch on a device."""
        steps = tuple(replace(s, values=None if s.values is None else s.values.to(device)) for s in self.steps)
        branch = self.branch
        if branch is not None:
            branch = replace(branch, down=branch.down.to(device), up=branch.up.to(device))
        return Parts(steps, branch)

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the steps and the branch."""
        values = [step.values for step in self.steps if step.values is not None]
        return values if self.branch is None else [*values, self.branch.down, self.branch.up]


NO_PARTS = Parts()


def channel_step(kind: Literal["divide", "subtract", "multiply"], values: Tensor) -> Step:
    """Make a step with one number for each channel (width,), stored as float32."""
    return Step(kind, values.detach().float().contiguous())


def hadamard_step(size: int) -> Step:
    """Make the step that multiplies blocks of `size` channels by a Hadamard matrix; `size` is a power of two."""
    if size < 2 or size & (size - 1):
        raise ConfigError(f"hadamard: block size {size}; allowed are powers of two from 2")
    return Step("hadamard", size=size)


def make_branch(up: Tensor, down: Tensor) -> Branch:
    """Make a low-rank branch from its factors `up` (outputs, rank) and `down` (rank, width), of any float type."""
    outputs, rank = up.shape
    if down.ndim != 2 or down.shape[0] != rank or rank < 1:
        raise ConfigError(f"branch: factors {tuple(up.shape)} and {tuple(down.shape)} have no product")
    ranks = (0, -rank % RANKS)
    narrow = torch.nn.functional.pad(down.detach().float().T, ranks).contiguous()
    wide = torch.nn.functional.pad(up.detach().float(), (*ranks, 0, -outputs % COLUMNS))
    return Branch(narrow, wide.view(-1, COLUMNS, wide.shape[1]).transpose(1, 2).contiguous(), rank, outputs)


def factors(branch: Branch) -> tuple[Tensor, Tensor]:
    """Return the factors up (outputs, rank) and down (rank, width) of a branch, float32."""
    wide = branch.up.transpose(1, 2).flatten(0, 1)
    return wide[: branch.outputs, : branch.rank], branch.down[:, : branch.rank].T


def check_parts(parts: Parts, width: int, outputs: int) -> None:
    """Raise ConfigError unless transform and branch fit a linear of these sizes."""
    for step in parts.steps:
        if step.kind == "hadamard" and width % step.size:
            raise ConfigError(f"hadamard: blocks of {step.size} do not divide {width} channels")
        if step.values is not None and tuple(step.values.shape) != (width,):
            raise ConfigError(f"{step.kind}: values of shape {tuple(step.values.shape)} for {width} channels")
    branch = parts.branch
    if branch is not None and (branch.down.shape[0], branch.outputs) != (width, outputs):
        widths = f"{branch.down.shape[0]} inputs and {branch.outputs} outputs"
        raise ConfigError(f"branch: it has {widths}, the weight {width} and {outputs}")


def transformed(x: Tensor, steps: Sequence[Step]) -> Tensor:
    """Apply the steps to x (…, width), in float32. The result defines the bits that every backend must give."""
    x = x.float()
    for step in steps:
        match step:
            case Step(kind="divide", values=Tensor() as values):
                x = x / values
            case Step(kind="subtract", values=Tensor() as values):
                x = x - values
            case Step(kind="multiply", values=Tensor() as values):
                x = x * values
            case Step(size=size):
                x = butterflies(x, size)
    return x


def butterflies(x: Tensor, size: int) -> Tensor:
    """Multiply blocks of `size` of the last dimension by the Hadamard matrix, in the order that `Step` describes."""
    shape, half = x.shape, 1
    while half < size:
        low, high = x.reshape(*shape[:-1], -1, 2, half).unbind(-2)
        x = torch.stack([low + high, low - high], dim=-2).reshape(shape)
        half *= 2
    return x * torch.tensor(size**-0.5, dtype=x.dtype, device=x.device)


def branch_bound(x: Tensor, branch: Branch) -> Tensor:
    """Compute the largest error (…, outputs) that rounding may leave in up (down x) of any backend, in float64.

    A sum of n products in chains of 64 has an error of at most (64 + n / 64 + 1) · 2⁻²⁴ · Σ|terms|. There are two such
    sums, first down x, then up (down x). Then y takes the result with one more rounding for each part of the product.
    """
    up, down = factors(branch)
    size = x.double().abs() @ down.double().abs().T @ up.double().abs().T
    width = down.shape[1]
    roundings = min(CHAIN, width) + width // CHAIN + min(CHAIN, branch.rank) + branch.rank // CHAIN + width // 256 + 8
    return size * roundings * 2.0**-24
