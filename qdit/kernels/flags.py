"""Flags of kernels on GPUs: one tensor for each device records that a result was not finite.

To read a flag, the program must wait for the GPU. Outside of `watched()` every call of a kernel reads the flag, so it
can raise the error itself. Inside, nobody reads it until the outermost context ends; then one reading raises the error
for the whole forward pass. `watch(model)` puts this context around a model's forward. A flag keeps its value 1 until it
is read. So it also notes what a replayed CUDA graph computes: call `check()` after the replay.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qdit.kernels.reference import not_finite


class _OfThread(threading.local):
    """Flags of one thread, so that a thread never raises the error of another thread."""

    def __init__(self) -> None:
        self.flags: dict[torch.device, Tensor] = {}
        self.depth = 0


_THREAD = _OfThread()


def flag_of(device: torch.device) -> Tensor:
    """The flag (1,) int32 of a device. A kernel sets it to 1 if one of its outputs is not finite."""
    flag = _THREAD.flags.get(device)
    if flag is None:
        with torch.inference_mode(False):
            flag = _THREAD.flags[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return flag


def raised(device: torch.device) -> bool:
    """Whether the device's flag is 1; the call sets it to 0. Inside `watched()` it is False, and nothing is read."""
    return _THREAD.depth == 0 and _lowered(flag_of(device))


def check() -> None:
    """Raise Unsupported if a flag that this thread has used is 1. All these flags are set to 0."""
    if sum(map(_lowered, _THREAD.flags.values())):  # all of them, not only up to the first
        raise not_finite()


@contextmanager
def watched() -> Iterator[None]:
    """Context manager: inside it, calls do not wait for the GPU. The end of the outermost context calls `check()`."""
    _enter()
    try:
        yield
    except BaseException:
        _leave(look=False)
        raise
    _leave(look=True)


def watch(model: nn.Module) -> None:
    """Put `watched()` around the forward of a model. In a compiled forward each kernel call still reads the flag."""

    def before(*arguments: Any) -> None:
        if not torch.compiler.is_compiling():
            _enter()

    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            _leave(look=output is not None)

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after, always_call=True)


def _enter() -> None:
    _THREAD.depth += 1


def _leave(*, look: bool) -> None:
    _THREAD.depth = max(0, _THREAD.depth - 1)
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if _THREAD.depth or capturing:
        return
    if look:
        check()
    for flag in _THREAD.flags.values():  # after another error: the next forward starts anew
        flag.zero_()


def _lowered(flag: Tensor) -> bool:
    was_raised = bool(flag.item())
    if was_raised:
        flag.zero_()
    return was_raised
