"""Chunks of samples (images or clips): chunk files, shards of chunks, and the list of each shard.

A chunk has a fixed size. The last one is padded with samples that are then dropped. Neighbouring chunks are computed as
one batch if the caller knows that this changes no bit.
A job computes a shard, which is a range of chunks. Existing chunks with the same key are kept, so a killed job
continues. The key does not depend on the GPU. Each file holds its origin (`qdit.sampling.origin`).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from qdit.core.errors import ConfigError
from qdit.core.failure import Failure, say
from qdit.core.files import atomic_path, load_arrays, read_json, save_arrays, sha256_file, write_json
from qdit.core.provenance import packages
from qdit.kernels.simulated import backend
from qdit.quant.folder import read_failure
from qdit.quant.sites import prepare_inference
from qdit.sampling.family import Arrays
from qdit.sampling.origin import origin_key
from qdit.sampling.precision import CPU, backend_on, kind_of_backend


@dataclass(frozen=True)
class Mode:
    """How a quantized model computes: the mode's name, how a loaded model is prepared, and which kernels compute.

    `identity` holds further values that the samples of this mode depend on.
    """

    name: str
    prepare: Callable[[Any], Any]
    backend: Callable[[], str]
    identity: Mapping[str, str] = field(default_factory=dict)

    def on(self, device: torch.device) -> dict[str, str]:
        """The mode's part of a run's origin: its name and the kind of kernels on this device.

        It is the same on all GPUs.
        """
        return {"name": self.name, "backend": kind_of_backend(device, self.backend), **self.identity}


SIMULATE = Mode("simulate", prepare_inference, backend)
"""Quantize-dequantize in floating point; the other mode is in `qdit.sampling.integer`."""


@dataclass(frozen=True)
class Shard:
    """The chunks of a run that one job computes. `count` is the number of samples of the whole run.

    `chunk` is the number of samples in a chunk, `number` the number of this shard, and `what` the word for samples in
    messages. Raises ConfigError for counts below one or a shard beyond the last.
    """

    count: int
    chunk: int
    number: int
    chunks_per_shard: int
    what: str = "images"

    def __post_init__(self) -> None:
        if self.count < 1 or self.chunk < 1 or self.chunks_per_shard < 1:
            raise ConfigError(
                f"{self.what} {self.count}, chunk {self.chunk}, chunks_per_shard {self.chunks_per_shard}: each must be"
                " at least 1"
            )
        if self.number < 0 or not self.chunks:
            last = -(-self.count // (self.chunk * self.chunks_per_shard)) - 1
            raise ConfigError(
                f"shard {self.number}: {self.count} {self.what} in chunks of {self.chunk} have shards 0 to {last}"
            )

    @property
    def chunks(self) -> range:
        """Numbers of the chunks in this shard."""
        first = self.number * self.chunks_per_shard
        return range(first, min(first + self.chunks_per_shard, -(-self.count // self.chunk)))

    @property
    def size(self) -> int:
        """Number of samples in this shard."""
        return min(self.chunks.stop * self.chunk, self.count) - self.chunks.start * self.chunk

    def listing(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """The list of this shard before any chunk is in it: the run's origin, package versions, numbers of samples."""
        size = {"images": self.count, "chunk": self.chunk}
        return {"key": origin_key(origin), "origin": dict(origin), "packages": packages(), **size, "chunks": []}

    def path(self, folder: Path) -> Path:
        """Path of the JSON file that lists the chunks of this shard."""
        return folder / f"shard-{self.number:03d}.json"

    def write(self, folder: Path, mode: Mode, listing: Mapping[str, Any], *, device: torch.device = CPU) -> Path:
        """Write the list of this shard's chunks and return its path."""
        write_json(self.path(folder), {**listing, "mode": mode.name, "backend": backend_on(device, mode.backend)})
        return self.path(folder)


def chunk_path(folder: Path, chunk: int) -> Path:
    """Path of the file of one chunk."""
    return folder / f"{chunk:05d}.npz"


def is_current(path: Path, key: str, count: int, columns: tuple[str, ...]) -> bool:
    """Whether a chunk file is complete, belongs to the run with this key, and holds `count` samples in each array."""
    if not path.exists():
        return False
    try:
        arrays = load_arrays(path)
        return str(arrays["key"]) == key and all(len(arrays[column]) == count for column in columns)
    except Exception:  # whatever is wrong with the file, the chunk is made again
        return False


def make_chunks(
    shard: Shard,
    folder: Path,
    origin: Mapping[str, Any],
    columns: tuple[str, ...],
    make: Callable[[range, int], Arrays],
    *,
    together: int = 1,
) -> list[dict[str, str]]:
    """Compute the missing chunks of a shard. Return the list of all its chunks with their digests.

    `make(samples, count)` computes `samples` as one batch and returns the arrays of the first `count`. `columns` are
    the names of these arrays. `origin` is everything that the samples depend on. Each chunk stores the origin and its
    digest, the key. A batch is `together` chunks. Its first number is a multiple of `together`, so batches are the same
    after a killed job.
    """
    key, stored = origin_key(origin), np.array(json.dumps(origin, sort_keys=True))
    for _, group in groupby(
        tqdm(shard.chunks, desc=f"sampling shard {shard.number}", unit="chunk", mininterval=1),
        key=lambda number: number // together,
    ):
        numbers = list(group)
        counts = {number: min(shard.chunk, shard.count - number * shard.chunk) for number in numbers}
        missing = [n for n in numbers if not is_current(chunk_path(folder, n), key, counts[n], columns)]
        if not missing:
            continue
        start = numbers[0] * shard.chunk
        arrays = make(range(start, start + len(numbers) * shard.chunk), sum(counts.values()))
        for number in missing:
            at = number * shard.chunk - start
            samples = {name: values[at : at + counts[number]] for name, values in arrays.items()}
            facts = {"first": np.int64(number * shard.chunk), "key": np.array(key), "origin": stored}
            save_arrays(chunk_path(folder, number), {**samples, **facts})
    paths = [chunk_path(folder, number) for number in shard.chunks]
    return [{"file": path.name, "sha256": sha256_file(path)} for path in paths]


def copy_equal_samples(source: Path, folder: Path, shard: Shard, origin: Mapping[str, Any]) -> bool:
    """Copy the chunks of a shard, and their features, from the folder `source` if its samples have this origin.

    Return whether they were copied. Replicates of a method without random draws have equal checkpoints, and so equal
    samples.
    """
    listing = shard.path(source)
    if not listing.is_file() or read_json(listing).get("key") != origin_key(origin):
        return False
    features = source / f"features-{shard.number:03d}.npz"
    for path in (*(chunk_path(source, number) for number in shard.chunks), features):
        if path.is_file():
            with atomic_path(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
    return True


def handed_on(checkpoint: Path, write: Callable[[Failure], object]) -> bool:
    """Whether quantizing failed and the checkpoint folder has the recorded failure.

    If so, call `write` with the failure.
    """
    failure = read_failure(checkpoint)
    if failure is None:
        return False
    write(failure)
    say(failure.text)
    return True
