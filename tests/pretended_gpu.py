"""A device that is only pretended: its tensors compute on the CPU, and refuse to meet ordinary tensors there.

What runs on it would run on a GPU as far as places go. An operation on tensors of both places raises, but for what CUDA
allows too: a single number, or indices, on the CPU. torch's name for it is `meta`, since any program may have tensors
of that device; the values are the CPU's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("meta")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
MOVING = ("aten::_to_copy", "aten::copy_")


class OnGpu(Tensor):
    """A tensor whose values lie in `inner`, on the CPU, and whose device is the pretended one."""

    inner: Tensor
    is_cuda = True  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGpu":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return dispatch(function, arguments, options or {})


def dispatch(function: Any, arguments: Any, options: Any) -> Any:
    """Compute on the CPU what was asked of the device; RuntimeError where places are mixed."""
    name = function._schema.name
    tensors = [value for value in tree_leaves((arguments, options)) if isinstance(value, Tensor)]
    there = any(isinstance(value, OnGpu) for value in tensors)
    strangers = [value for value in tensors if not isinstance(value, OnGpu) and value.dim()]
    if there and strangers and name not in (*INDEXING, *MOVING):
        raise RuntimeError(f"{name}: expected all tensors on one device, found the pretended one and the CPU")
    asked = options.get("device")
    goes = torch.device(asked) == GPU if asked is not None else there
    if name in INDEXING:
        goes = isinstance(arguments[0], OnGpu)
    inside = {key: "cpu" if key == "device" and value is not None else value for key, value in options.items()}
    of_inner = tree_map(lambda value: value.inner if isinstance(value, OnGpu) else value, (arguments, inside))
    result = function(*of_inner[0], **of_inner[1])
    if name.endswith("_") and isinstance(arguments[0], Tensor):
        return arguments[0]  # in place: what it holds has changed
    if not goes:
        return result
    return tree_map(lambda value: OnGpu(value) if isinstance(value, Tensor) else value, result)


class Pretending(TorchDispatchMode):
    """Sends what makes tensors on the device, or takes them there, to the pretended one."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return dispatch(function, arguments, options or {})


def tensor(data: Any, *, make: Any = torch.tensor, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor` (or `as_tensor`), which makes empty tensors of the device itself."""
    made: Tensor = make(data, **options)
    return made if device is None else made.to(device)


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Inside this context there is a device, whose name it gives; inference mode, which it cannot do, is no_grad."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, Pretending():
            patch.setattr(torch, "inference_mode", torch.no_grad)
            patch.setattr(torch, "as_tensor", partial(tensor, make=torch.as_tensor))
            patch.setattr(torch, "tensor", tensor)
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
