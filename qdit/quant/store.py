"""Stores of tensor rows, one row for each calibration sample, in memory that is reserved once.

Learned rounding keeps the input and the output of one block for all samples. At 512×512 each of them takes 24 GB. A
tensor of this size stays in pinned memory of the host, and only the rows of a batch are copied to the GPU. The bits of
the values are the same in both places.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from qdit.quant.batches import Batch, Keywords, rows_in, run
from qdit.quant.observe import Captured

B = TypeVar("B", bound=Batch)

DEVICE_BYTES = 7 * 10**9
"""A larger store lies in memory of the host."""
CHUNK_BYTES = 2**28
"""Pinned memory is reserved in pieces of this size, since torch rounds each piece up to a power of two."""


class Rows(NamedTuple):
    """Indices (n,) of some samples, once on the CPU and once on the device of a model.

    Both copies exist before they are used. So the CPU never waits for the GPU to send indices.
    """

    on_cpu: Tensor
    on_device: Tensor

    @classmethod
    def of(cls, indices: Tensor, device: torch.device) -> "Rows":
        """Copy indices from the CPU to a device, and keep both."""
        return cls(indices, indices.to(device))

    def each(self) -> Iterator["Rows"]:
        """Yield the n indices of each of the m rows of (m, n) indices."""
        if self.on_cpu is self.on_device:
            return (Rows(rows, rows) for rows in self.on_cpu)
        return (Rows(*pair) for pair in zip(self.on_cpu, self.on_device, strict=True))


class RowStore:
    """Memory for `rows` rows with the shape, type and device of the rows of a given tensor."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.rows, self.device, self.shape = rows, like.device, tuple(like.shape[1:])
        row_bytes = max(1, like[:1].nbytes)
        self.on_host = like.device.type != "cpu" and rows * row_bytes > DEVICE_BYTES
        self.chunk_rows = max(1, CHUNK_BYTES // row_bytes if self.on_host else rows)
        device = torch.device("cpu") if self.on_host else like.device
        with torch.inference_mode(mode=False):
            self.chunks = [
                torch.empty(count, *self.shape, dtype=like.dtype, device=device, pin_memory=self.on_host)
                for count in [min(self.chunk_rows, rows - start) for start in range(0, rows, self.chunk_rows)]
            ]

    @classmethod
    def of(cls, values: Tensor) -> "RowStore":
        """Make a store whose memory is the tensor itself; nothing is copied."""
        store = cls(0, values)
        store.rows, store.chunk_rows, store.chunks = len(values), max(1, len(values)), [values]
        return store

    def __len__(self) -> int:
        return self.rows

    @property
    def features(self) -> int:
        """Width of a token; 1 if a row has no dimension of tokens."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    def __getitem__(self, rows: Rows) -> Tensor:
        """The rows on the device, as a new tensor."""
        if not self.on_host:
            return self.chunks[0][rows.on_device]
        result = torch.empty(len(rows.on_cpu), *self.shape, dtype=self.chunks[0].dtype, device=self.device)
        for target, row in zip(result, rows.on_cpu.tolist(), strict=True):
            target.copy_(self.chunks[row // self.chunk_rows][row % self.chunk_rows], non_blocking=True)
        return result

    def write(self, start: int, values: Tensor) -> None:
        """Write consecutive rows, the first one at index `start`. Copies keep their order, so later reads see them."""
        done = 0
        while done < len(values):
            chunk, offset = divmod(start + done, self.chunk_rows)
            count = min(len(values) - done, self.chunk_rows - offset)
            target = self.chunks[chunk][offset : offset + count]
            target.copy_(values[done : done + count], non_blocking=self.on_host)
            done += count

    def whole(self) -> Tensor:
        """Return all rows on the device: the memory itself, or a copy if the memory is on the host."""
        if not self.on_host:
            return self.chunks[0]
        result = torch.empty(self.rows, *self.shape, dtype=self.chunks[0].dtype, device=self.device)
        for target, chunk in zip(result.split(self.chunk_rows), self.chunks, strict=True):
            target.copy_(chunk, non_blocking=True)
        return result


class GrowingStore:
    """Stores rows that arrive call by call. The first call reserves memory for as many rows as are expected.

    If more rows come (a layer that a forward pass calls several times), as much memory again is reserved.
    """

    def __init__(self, expected: int) -> None:
        self.expected = max(1, expected)
        self.stores: list[RowStore] = []
        self.room = 0

    def append(self, values: Tensor) -> None:
        """Write the next rows."""
        while len(values):
            if not self.room:
                self.stores.append(RowStore(self.expected, values))
                self.room = self.expected
            count = min(self.room, len(values))
            self.stores[-1].write(self.expected - self.room, values[:count])
            values, self.room = values[count:], self.room - count

    def whole(self) -> Tensor:
        """Return all rows on the device: the memory itself if one reservation is exactly full, otherwise a copy."""
        if len(self.stores) == 1 and not self.room:
            return self.stores[0].whole()
        parts = [store.whole() for store in self.stores]
        return torch.cat([*parts[:-1], parts[-1][: self.expected - self.room]])


def passes(rows: int, size: int, device: torch.device) -> Iterator[tuple[int, Rows]]:
    """Yield (first row, indices) for consecutive passes over `rows` samples, at most `size` samples each."""
    indices = Rows.of(torch.arange(rows), device)
    parts = zip(indices.on_cpu.split(size), indices.on_device.split(size), strict=True)
    return ((number * size, Rows(*part)) for number, part in enumerate(parts))


def pieces(batches: Iterable[B], size: int) -> Iterator[B]:
    """Cut batches into pieces of at most `size` samples. Each piece has the arguments that all samples share."""
    for batch in batches:
        count = rows_in(batch)
        for start in range(0, count, size):
            rows = slice(start, start + size)
            if size >= count:
                yield batch
            elif isinstance(batch, Keywords):
                yield cast(B, batch.take(torch.arange(count)[rows]))
            else:
                parts = cast("tuple[Tensor, ...]", batch)
                yield cast(B, tuple(part[rows] if part.dim() else part for part in parts))


def capture_rows(
    model: nn.Module, name: str, batches: Iterable[Batch], rows: int, *, output: bool
) -> tuple[RowStore, ...]:
    """Store a submodule's arguments over all batches, which have `rows` samples together; one store per argument.

    With `output` the first store holds the output in place of the first argument. Layers after the submodule are not
    computed.
    """
    stores: list[RowStore] = []
    start = 0

    def keep(tensors: Sequence[Tensor]) -> None:
        nonlocal start
        if not stores:
            stores.extend(RowStore(rows, tensor) for tensor in tensors)
        for store, tensor in zip(stores, tensors, strict=True):
            store.write(start, tensor)
        start += len(tensors[0])
        raise Captured

    def keep_output(_module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> None:
        keep((result, *arguments[1:]))

    def keep_inputs(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        keep(arguments)

    module = model.get_submodule(name)
    handle = module.register_forward_hook(keep_output) if output else module.register_forward_pre_hook(keep_inputs)
    try:
        with torch.no_grad():
            for batch in batches:
                with suppress(Captured):
                    run(model, batch)
    finally:
        handle.remove()
    return tuple(stores)
