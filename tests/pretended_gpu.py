"""A device that is only pretended: its tensors compute on the CPU, and refuse to meet ordinary tensors there.

What runs on it would run on a GPU as far as places go. An operation on tensors of both places raises where torch's own
device checks would (`tests.device_rules`): most operations take no single number of the CPU either. torch's name for
the device is `meta`, since any program may have tensors of that device; the values are the CPU's.
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

from tests.device_rules import INDEXING, refusal

GPU = torch.device("meta")
WAITS: list[str] = []
"""Operations since the device was pretended for which a program would wait for a GPU: values read, copies from and to
memory that is not pinned, results whose shape depends on values."""
PINNED: set[int] = set()
"""Addresses of storages of the CPU that a program asked to be pinned. Nothing is pinned here."""
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal")


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

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: "OnGpu") -> None:
        """torch's own would exchange the wrapper and leave the values."""
        self.inner = other.inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return dispatch(function, arguments, options or {})


def dispatch(function: Any, arguments: Any, options: Any) -> Any:
    """Compute on the CPU what was asked of the device; RuntimeError where places are mixed."""
    name = function._schema.name
    if reason := refusal(function, arguments, options, OnGpu):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, the pretended one and cpu!"
            f" ({name}: {reason})"
        )
    there = any(isinstance(value, OnGpu) for value in tree_leaves((arguments, options)))
    if waits(name, arguments, options):
        WAITS.append(name)
    asked = options.get("device")
    goes = torch.device(asked) == GPU if asked is not None else there
    if name in INDEXING:
        goes = isinstance(arguments[0], OnGpu)
    inside = {key: "cpu" if key == "device" and value is not None else value for key, value in options.items()}
    pinned = inside.pop("pin_memory", None)
    of_inner = tree_map(lambda value: value.inner if isinstance(value, OnGpu) else value, (arguments, inside))
    result = function(*of_inner[0], **of_inner[1])
    if pinned:
        PINNED.add(result.untyped_storage().data_ptr())
    if name.endswith("_") and not name.endswith("__") and isinstance(arguments[0], Tensor):
        return arguments[0]  # in place: what it holds has changed
    if not goes:
        return result
    return tree_map(lambda value: OnGpu(value) if isinstance(value, Tensor) else value, result)


def waits(name: str, arguments: Any, options: Any) -> bool:
    """Whether a program would wait for the GPU at this operation."""
    first = arguments[0] if arguments else None
    if name in WAITING:
        return isinstance(first, OnGpu)
    if name == "aten::_to_copy":
        target = options.get("device")
        return target is not None and (torch.device(target) == GPU) != isinstance(first, OnGpu)
    if name == "aten::copy_":
        if isinstance(first, OnGpu) == isinstance(arguments[1], OnGpu):
            return False
        of_cpu = next(tensor for tensor in arguments[:2] if not isinstance(tensor, OnGpu))
        non_blocking = arguments[2] if len(arguments) > 2 else options.get("non_blocking", False)
        return not (non_blocking and of_cpu.untyped_storage().data_ptr() in PINNED)
    if name in INDEXING:
        indices = [index for index in arguments[1] if index is not None]
        return isinstance(first, OnGpu) and any(
            not isinstance(index, OnGpu) or index.dtype == torch.bool for index in indices
        )
    return False


class Pretending(TorchDispatchMode):
    """Sends what makes tensors on the device, or takes them there, to the pretended one."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return dispatch(function, arguments, options or {})


def recorded(call: Any) -> tuple[Any, Tensor]:
    """A CUDA graph of the device: (function that replays the call, its output). For `qdit.sampling.graphs.recorded`.

    A replay computes the same operations on the same memory. What they were given as numbers, and what the CPU
    computed, stays as it was. RuntimeError where a program would wait for a GPU, which a graph cannot.
    """
    log: list[tuple[Any, Any, Any, Any]] = []

    def logged(function: Any, arguments: Any, options: Any) -> Any:
        result = dispatch(function, arguments, options)
        log.append((function, arguments, options, result))
        return result

    WAITS.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnGpu, "__torch_dispatch__", classmethod(lambda _, f, __, a=(), o=None: logged(f, a, o or {})))
        patch.setattr(Pretending, "__torch_dispatch__", lambda _, f, __, a=(), o=None: logged(f, a, o or {}))
        output = call()
    if WAITS:
        raise RuntimeError(f"operation not permitted when stream is capturing: {WAITS[0]}")

    def replay() -> None:
        for function, arguments, options, result in log:
            again = dispatch(function, arguments, options)
            for memory, values in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(memory, OnGpu):
                    memory.inner.copy_(values.inner)

    return replay, output


def tensor(data: Any, *, make: Any = torch.tensor, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor` (or `as_tensor`), which makes empty tensors of the device itself."""
    made: Tensor = make(data, **options)
    return made if device is None else made.to(device)


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Inside this context there is a device, whose name it gives; inference mode, which it cannot do, is no_grad."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    WAITS.clear()
    PINNED.clear()
    try:
        with pytest.MonkeyPatch.context() as patch, Pretending():
            patch.setattr(torch, "inference_mode", lambda *_, **__: torch.no_grad())
            patch.setattr(torch, "as_tensor", partial(tensor, make=torch.as_tensor))
            patch.setattr(torch, "tensor", tensor)
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
