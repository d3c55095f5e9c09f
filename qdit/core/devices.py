"""Devices of torch, and settings with which a GPU computes the same bits in every run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def torch_device(device: str) -> torch.device:
    """The torch device of this name (`cpu`, `cuda:N`). On a GPU, torch is set to compute the same bits in every run.

    TensorFloat-32 is switched off: it would round the inputs of float32 products to ten bits. With deterministic
    algorithms, torch fills new memory with NaN. This is switched off too: it takes time, and it changes no result that
    is written before it is read.
    """
    device_of_name = torch.device(device)
    if device_of_name.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return device_of_name


@contextmanager
def tensor_float_32(*, enabled: bool) -> Iterator[None]:
    """Context manager: if `enabled`, GPUs round the inputs of float32 matrix products to ten bits inside it.

    Convolutions stay float32. CPUs have no such rounding, so nothing changes there.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def device_after(move: Callable[[Tensor], Tensor], tensor: Tensor) -> torch.device:
    """The device to which `move` sends `tensor`. `move` is the function that torch's `Module._apply` gets.

    `move` may also change the type of a tensor; the result says nothing about that.
    """
    return move(torch.empty(0, device=tensor.device)).device
