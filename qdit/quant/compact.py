"""Conversion of tensors to half precision where this changes no value, as a checkpoint file stores them."""

import torch
from torch import Tensor


def compact(tensor: Tensor) -> Tensor:
    """Return a float32 tensor as float16 if this changes no value; otherwise the same tensor."""
    half = tensor.half()
    return half if tensor.dtype == torch.float32 and torch.equal(half.float(), tensor) else tensor


def stored_bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor takes in a checkpoint file."""
    return compact(tensor).nbytes
