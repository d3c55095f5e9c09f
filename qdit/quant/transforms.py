"""Input transforms of a linear site. They run before its activation quantizer.

A transform T is affine and invertible. The site computes W T⁻¹ on T x, so that without rounding its output is W x + b
as before. `absorb` gives the weight and the bias for that. Everything is computed in float32, for any precision of the
input.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, ConfigError
from qdit.quant.kinds import Kinds
from qdit.quant.weight_kinds import float_tensor, require_tensor

TRANSFORMS = Kinds("input transform")
register_transform_kind = TRANSFORMS.register

ORTHOGONAL_TO = 1e-4
"""Largest element of Q Qᵀ − I that a matrix may have in float32."""
LARGEST_MATRIX = 64
"""Above this size a Hadamard matrix is applied as two small ones."""


class Transform(nn.Module):
    """Interface of an input transform: (…, in) → (…, in). Registered classes can be built from facts and tensors."""

    kind: ClassVar[str]
    width: int
    """Number of input channels."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute T x in float32."""

    @abstractmethod
    def absorb(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight (out, in) and bias that give for T x the output that `weight` and `bias` give for x."""

    def facts(self) -> dict[str, Any]:
        """Return plain JSON that `build` needs besides the tensors and the width."""
        return {}

    @classmethod
    @abstractmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> Self:
        """Build the transform from its facts and tensors; CheckpointError if they disagree."""

    def spec(self) -> dict[str, Any]:
        """Return the kind of the transform and its `facts` in one JSON object, as the checkpoint stores them."""
        return {"kind": self.kind, **self.facts()}


@register_transform_kind("divide")
class Divide(Transform):
    """Input transform T x = x / factor. `factor` (in,) has a number for each channel, positive or negative, not 0."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        factor = vector(factor, "factor")
        if not (factor != 0).all():
            raise ConfigError(f"divide: {int((factor == 0).sum())} factors are 0; give such channels the factor 1")
        self.width = len(factor)
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / self.factor

    def absorb(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (weight.double() * self.factor.double()).to(weight.dtype), bias

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> Self:
        return cls(float_tensor(tensors, "factor", (width,)))


@register_transform_kind("shift")
class Shift(Transform):
    """Input transform T x = x − offset. `offset` (in,) has one number for each channel; the bias gains W · offset."""

    offset: Tensor

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        offset = vector(offset, "offset")
        self.width = len(offset)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        return x.float() - self.offset

    def absorb(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        gain = weight.double() @ self.offset.double()
        return weight, (gain if bias is None else bias.double() + gain).to(weight.dtype)

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> Self:
        return cls(float_tensor(tensors, "offset", (width,)))


@register_transform_kind("hadamard")
class Hadamard(Transform):
    """Input transform T x = H (signs · x) in blocks of `size` channels; H is Sylvester's Hadamard matrix / √size.

    `size` is a power of two that divides the width. `signs` (in,) are +1 and −1 (a random Hadamard rotation), or None.
    """

    signs: Tensor | None
    inner: Tensor
    outer: Tensor | None

    def __init__(self, width: int, *, size: int, signs: Tensor | None = None) -> None:
        super().__init__()
        if size < 2 or size & (size - 1) or width % size:
            legal = [2**power for power in range(1, width.bit_length()) if width % 2**power == 0]
            raise ConfigError(f"hadamard: block size {size} does not fit {width} channels; allowed are {legal}")
        if signs is not None and (tuple(signs.shape) != (width,) or not (signs.abs() == 1).all()):
            raise ConfigError(f"hadamard: signs of shape {tuple(signs.shape)}; they are {width} values +1 or −1")
        self.width, self.size = width, size
        self.register_buffer("signs", None if signs is None else signs.detach().to(torch.int8))
        for name, matrix in zip(("inner", "outer"), hadamard_factors(size), strict=True):
            self.register_buffer(name, None if matrix is None else matrix.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with in_full_precision(x.device):
            return times_hadamard(self._signed(x.float()), self.inner, self.outer)

    def absorb(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return hadamard(self._signed(weight.double()), self.size).to(weight.dtype), bias  # H is symmetric

    def _signed(self, x: Tensor) -> Tensor:
        return x if self.signs is None else x * self.signs

    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "signs": self.signs is not None}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> Self:
        signs = require_tensor(tensors, "signs", torch.int8, (width,)) if facts["signs"] else None
        return cls(width, size=facts["size"], signs=signs)


@register_transform_kind("orthogonal")
class Orthogonal(Transform):
    """Input transform T x = Q x with an orthogonal matrix, for all channels or for blocks of consecutive channels.

    `matrix` is (size, size), the same for each block of `size` channels, or (blocks, size, size), one matrix for each
    block.
    """

    matrix: Tensor

    def __init__(self, width: int, matrix: Tensor) -> None:
        super().__init__()
        matrix = matrix.detach().float().clone(memory_format=torch.contiguous_format)
        size = matrix.shape[-1]
        legal = [(size, size), (width // size, size, size)] if size and width % size == 0 else []
        if tuple(matrix.shape) not in legal:
            raise ConfigError(
                f"orthogonal: a matrix of shape {tuple(matrix.shape)} does not fit {width} channels; it is (size, size)"
                " or (blocks, size, size) with a size that divides them"
            )
        deviation = float((matrix.double() @ matrix.double().mT - torch.eye(size).to(matrix.device)).abs().max())
        if not deviation <= ORTHOGONAL_TO:
            raise ConfigError(
                f"orthogonal: Q Qᵀ differs from I by {deviation:.2g}, allowed is {ORTHOGONAL_TO:g}; orthogonalize it"
            )
        self.width, self.size = width, size
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        with in_full_precision(x.device):
            return self._rotated(x.float(), self.matrix)

    def absorb(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._rotated(weight.double(), self.matrix.double()).to(weight.dtype), bias

    def _rotated(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Each block of the last dimension times Qᵀ from the right: Q x for rows x, and W Qᵀ for a weight."""
        if matrix.ndim == 2 and self.size == self.width:
            return x @ matrix.mT
        return (x.unflatten(-1, (-1, 1, self.size)) @ matrix.mT).flatten(-3)

    def facts(self) -> dict[str, Any]:
        return {"matrix": list(self.matrix.shape)}

    @classmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> Self:
        return cls(width, float_tensor(tensors, "matrix", tuple(facts["matrix"])))


class Chain(nn.ModuleList):
    """A sequence of input transforms; the first one gets the input of the site, the next one its output."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        widths = {transform.width for transform in transforms}
        if len(widths) != 1:
            raise ConfigError(f"a chain of transforms of widths {sorted(widths)}: they must have one width")
        super().__init__(transforms)
        self.width = widths.pop()

    def steps(self) -> Iterator[Transform]:
        """Return the transforms in the order in which they are applied."""
        yield from self  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps():
            x = step(x)
        return x

    def absorb(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Do what `Transform.absorb` does, for all transforms together."""
        for step in self.steps():
            weight, bias = step.absorb(weight, bias)
        return weight, bias

    def spec(self) -> list[dict[str, Any]]:
        """Return the specs of the transforms, in their order."""
        return [step.spec() for step in self.steps()]


def build_chain(specs: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], width: int) -> Chain:
    """Build the chain of these specs; the name of a tensor begins with the index of its transform in the chain."""
    if not specs:
        raise CheckpointError("a chain without transforms; quantize again")
    steps = []
    for number, spec in enumerate(specs):
        prefix = f"{number}."
        step_tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        steps.append(TRANSFORMS.find(spec.get("kind")).build(spec, step_tensors, width))
    return Chain(steps)


def hadamard(x: Tensor, size: int) -> Tensor:
    """Multiply blocks of `size` (a power of two) of the last dimension by Sylvester's normalized Hadamard matrix."""
    inner, outer = hadamard_factors(size)
    return times_hadamard(x, inner.to(x), None if outer is None else outer.to(x))


def hadamard_factors(size: int) -> tuple[Tensor, Tensor | None]:
    """Return Sylvester's Hadamard matrix divided by √size (float64), or two small ones with it as Kronecker product."""
    inner = size if size <= LARGEST_MATRIX else 2 ** (size.bit_length() // 2)
    return hadamard_matrix(inner), hadamard_matrix(size // inner) if inner < size else None


def hadamard_matrix(size: int) -> Tensor:
    """Return Sylvester's matrix divided by √size, float64; it is symmetric and its own inverse."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix * size**-0.5


def times_hadamard(x: Tensor, inner: Tensor, outer: Tensor | None) -> Tensor:
    """Multiply blocks of the last dimension by the matrix that `hadamard_factors` gives as `inner` and `outer`."""
    blocks = x.unflatten(-1, (-1, 1 if outer is None else len(outer), len(inner))) @ inner
    return (blocks if outer is None else outer @ blocks).flatten(-3)


def in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Context manager: on this device, autocast does not round products to half precision."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def random_signs(width: int, generator: torch.Generator) -> Tensor:
    """Draw random signs (width,) for `Hadamard`: +1 or −1 with equal probability."""
    return torch.randint(2, (width,), generator=generator, dtype=torch.int8) * 2 - 1


def vector(values: Tensor, what: str) -> Tensor:
    """Convert values of each channel (in,) to float32; ConfigError, which names `what`, unless they are finite."""
    values = values.detach().float().clone()
    if values.ndim != 1 or not values.isfinite().all():
        raise ConfigError(f"{what} of shape {tuple(values.shape)}: it needs one finite value for each input channel")
    return values
