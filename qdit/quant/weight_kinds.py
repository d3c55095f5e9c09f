"""Registry of weight kinds: forms in which a quantized weight is stored.

A method's file adds a form with `@register_weight_kind("name")` over a subclass of `StoredWeight`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from qdit.core.affine import unpack_codes
from qdit.core.errors import CheckpointError
from qdit.quant.kinds import Kinds

WEIGHTS = Kinds("weight")
register_weight_kind = WEIGHTS.register

UNIFORM = "uniform"
"""Integer codes with scales and zero points, the kind of a weight whose site names none."""


class StoredWeight(ABC):
    """A quantized weight (out, in) in the form in which it is stored."""

    kind: ClassVar[str]
    """Name of the form; the decorator sets it."""
    bits: int
    """Bits of one code."""
    no_integer_reason: ClassVar[str] = "the integer kernels multiply uniform codes only"
    """Why integer kernels cannot multiply it."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Shape (out, in) of the weight."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """Return the weight (out, in) that the codes mean, float32."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the file by name: packed `codes`, and for example scales and tables."""

    def facts(self) -> dict[str, Any]:
        """Return plain JSON that `build` needs besides the tensors and the shape."""
        return {}

    @classmethod
    @abstractmethod
    def build(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        """Build the weight from its facts and tensors. Raises CheckpointError if they disagree or are damaged."""

    def spec(self) -> dict[str, Any]:
        """Return the kind of the weight and its `facts` in one JSON object, as the checkpoint stores them."""
        return {"kind": self.kind, **self.facts()}


def require_tensor(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of a file; CheckpointError unless it has this type and shape."""
    if name not in tensors:
        raise CheckpointError(f"the tensor {name} is missing; quantize again")
    tensor = tensors[name]
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, the configuration says {dtype} {shape}; quantize again"
        )
    return tensor


def float_tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of a file as float32. The file keeps it in half precision if this changes no value."""
    half = name in tensors and tensors[name].dtype == torch.float16
    return require_tensor(tensors, name, torch.float16 if half else torch.float32, shape).float()


def unpack(tensors: Mapping[str, Tensor], bits: int, shape: tuple[int, int]) -> Tensor:
    """Unpack the codes (out, in), uint8, of the packed tensor `codes`."""
    if "codes" not in tensors:
        raise CheckpointError("the tensor codes is missing; quantize again")
    return unpack_codes(tensors["codes"], bits, shape).to(torch.uint8)
