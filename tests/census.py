"""Live bytes of tensors while real code runs on shapes alone: no values, no GPU, no memory.

The GPU is torch's meta device. Pinned memory of the host is of that device too, and counted apart. Where a program
reads a value, it reads 1 or True; where it asks whether any of some truths holds, it reads False, since programs ask so
for wrong values. Fused attention makes its output only, as its kernels on GPUs do. Scratch memory inside a kernel and
the allocator's gaps are not seen.
"""

import gc
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.quant import search, weight

GPU = torch.device("meta")
READING = torch.ops.aten._local_scalar_dense.default
ANY = torch.ops.aten.any.default


class Census(TorchDispatchMode):
    """Counts the storages that exist: `live` and `peak` bytes in the places `gpu` and `host`."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[str, int] = defaultdict(int)
        self.peak: dict[str, int] = defaultdict(int)
        self.known: set[int] = set()
        self.untrue: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options, first = dict(options or {}), arguments[0] if arguments else None
        if function is READING and first.device == GPU:
            return id(first) not in self.untrue
        pinned = options.pop("pin_memory", None)
        if pinned:
            options["device"] = GPU
        result = function(*arguments, **options)
        if function is ANY and first.dtype == torch.bool and first.device == GPU:
            self.untrue[id(result)] = result
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.device == GPU:
                self.count(value, "host" if pinned else "gpu")
        return result

    def count(self, tensor: Tensor, place: str) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live[place] += size
        self.peak[place] = max(self.peak[place], self.live[place])
        weakref.finalize(storage, self.forget, key, size, place)

    def forget(self, key: int, size: int, place: str) -> None:
        """A storage was freed."""
        self.known.discard(key)
        self.live[place] -= size


def fused_attention(q: Tensor, _k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """Output of fused attention: its memory, without the probabilities."""
    return torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Memory of packed codes."""
    return torch.empty(-(-codes.numel() * bits // 8), dtype=torch.uint8, device=codes.device)


def unpacked(stored: Tensor, _bits: int, shape: tuple[int, ...]) -> Tensor:
    """Memory of codes that were packed."""
    return torch.empty(shape, dtype=torch.int16, device=stored.device)


def dit_on_gpu(config: DiTConfig) -> DiT:
    """A DiT on the GPU of the census."""
    with torch.device(GPU):
        model = DiT(config)
        model.pos_embed = torch.empty(1, config.tokens, config.hidden_size)
    return model.eval().requires_grad_(False)


@contextmanager
def census() -> Iterator[Census]:
    """Inside this context tensors of the GPU have shapes only; what they would take is counted."""
    gc.collect()
    counted = Census()
    with pytest.MonkeyPatch.context() as patch, counted:
        patch.setattr(F, "scaled_dot_product_attention", fused_attention)
        patch.setattr(weight, "pack_codes", packed)
        patch.setattr(weight, "unpack_codes", unpacked)
        patch.setattr(search, "CPU_BLOCK", search.GPU_BLOCK)
        yield counted
