"""Which devices torch's operations take together on CUDA: the checks of torch's own dispatch, read from its wheel.

torch generates a device check for each operation with a CUDA kernel, from `native_functions.yaml`. Its default is that
all tensors, single numbers too, lie on one device. Operations with `device_check: NoCheck` check for themselves; most
are elementwise (TensorIterator): they take one single number of the CPU beside tensors of the device, and only where
they have two operands.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torchgen  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils._pytree import tree_leaves

INDEXING = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})
"""They take indices of the CPU, but a tensor of the CPU takes no indices of the device."""
MOVING = frozenset({"aten::_to_copy", "aten::copy_"})
"""They take tensors of any two devices."""
TAKE_NUMBERS = frozenset({"aten::where", "aten::masked_fill", "aten::masked_fill_", "aten::fill", "aten::fill_"})
"""They take single numbers of the CPU in any place but the one they write to."""
TERNARY = frozenset({"aten::addcmul", "aten::addcmul_", "aten::addcdiv", "aten::addcdiv_", "aten::lerp", "aten::lerp_"})
"""TensorIterator with three operands; it takes no numbers of the CPU."""


@cache
def unchecked() -> frozenset[str]:
    """Names with overload, as `aten::add.Tensor`, of the operations for which torch generates no device check."""
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = re.split(r"^- func: ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    names = (
        entry.partition("(")[0] for entry in entries if re.search(r"^  device_check: NoCheck", entry, re.MULTILINE)
    )
    return frozenset(f"aten::{name}" for name in names)


def refusal(function: Any, arguments: Any, options: Any, kind: type[Tensor]) -> str | None:
    """Why CUDA would refuse these tensors together; None if it takes them. Tensors of the device are of type `kind`."""
    schema = function._schema
    tensors = [value for value in tree_leaves((arguments, options)) if isinstance(value, Tensor)]
    of_cpu = [value for value in tensors if not isinstance(value, kind)]
    if not of_cpu or len(of_cpu) == len(tensors) or schema.name in MOVING:
        return None
    if any(not isinstance(value, kind) for value in written(schema, arguments, options)):
        return "it writes to a tensor of the CPU"
    if schema.name in INDEXING:
        values = arguments[2] if len(arguments) > 2 else None
        if not isinstance(arguments[0], kind):
            return "indices of the device into a tensor of the CPU"
        foreign = isinstance(values, Tensor) and not isinstance(values, kind) and values.dim() > 0
        return "values of the CPU" if foreign else None
    if any(value.dim() for value in of_cpu):
        return "a tensor of the CPU"
    if f"{schema.name}.{schema.overload_name}".removesuffix(".") not in unchecked():
        return "a single number of the CPU, which this operation does not take"
    if schema.name in TAKE_NUMBERS:
        return None
    if schema.name in TERNARY or "_foreach_" in schema.name or "_fused_" in schema.name:
        return "a single number of the CPU, which this operation does not take"
    return None if len(of_cpu) == 1 else "two single numbers of the CPU, of which it takes one"


def written(schema: Any, arguments: Any, options: Any) -> Iterator[Tensor]:
    """Tensors that an operation writes to: `self` of one in place, and `out`."""
    for argument, value in zip(schema.arguments, (*arguments, *[None] * len(schema.arguments)), strict=False):
        given = options.get(argument.name, value)
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (tensor for tensor in tree_leaves(given) if isinstance(tensor, Tensor))
