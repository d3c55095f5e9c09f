"""Reading of a run's images, chunk by chunk. They are checked against the lists that the sampling jobs wrote."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qdit.core.errors import DataError
from qdit.core.failure import Failure
from qdit.core.files import load_arrays, one_line, read_json, sha256_file
from qdit.sampling.origin import Origin, origin_key

_AGAIN = "run the sample step again"


class ListedChunk(NamedTuple):
    """An entry in a list of chunks: the name of the chunk file and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Shard:
    """The list of one shard's chunks, as a sampling job wrote it, with facts about the run.

    The facts are the run's key, number of images, chunk size, mode and kernel backend. `origin` is the origin of the
    samples; lists of older versions have None. `difference` (integer mode) compares its latents with simulated ones.
    `failure` is the recorded reason if sampling or quantizing failed; then there are no chunks.
    """

    path: Path
    number: int
    key: str
    images: int
    chunk: int
    mode: str
    backend: str
    difference: Mapping[str, float] | None
    chunks: tuple[ListedChunk, ...]
    failure: Failure | None
    origin: Any = None

    def made_of(self) -> Origin:
        """Origin of the samples of this shard. DataError if the list has no origin, or was changed."""
        return Origin.read(self.origin, self.key, where=self.path)


@dataclass(frozen=True)
class Chunk:
    """The content of one chunk file: images uint8 (n, C, H, W), labels int64 (n,), and prompts, if any.

    `first` is the index of the first image.
    """

    first: int
    images: np.ndarray
    labels: np.ndarray
    prompts: tuple[str, ...] | None = None


def shard_path(folder: Path, number: int) -> Path:
    """Path of the file that lists the chunks of one shard."""
    return folder / f"shard-{number:03d}.json"


def read_shard(path: Path) -> Shard:
    """Read the list of chunks that a sampling job wrote; DataError if the file is not such a list."""
    listing = read_json(path)
    try:
        return Shard(
            path=path,
            number=int(path.stem.removeprefix("shard-")),
            key=_text(listing["key"]),
            images=_count(listing["images"]),
            chunk=_count(listing["chunk"]),
            mode=_text(listing["mode"]),
            backend=_text(listing["backend"]),
            difference=_numbers(listing.get("difference")),
            chunks=tuple(ListedChunk(_file_name(entry["file"]), _text(entry["sha256"])) for entry in listing["chunks"]),
            failure=Failure.within(listing),
            origin=listing.get("origin"),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise DataError(f"{path}: not a list of sample chunks ({one_line(problem)}); {_AGAIN}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} stands where a text is expected")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise TypeError(f"{value!r:.40} stands where a whole number of at least 1 is expected")
    return value


def _numbers(value: Any) -> Mapping[str, float] | None:
    known = isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())
    if value is not None and not known:
        raise TypeError(f"{value!r:.40} stands where numbers by name are expected")
    return value


def _file_name(value: Any) -> str:
    """A file name without a folder. DataError otherwise: a list may name only files of its own folder."""
    name = _text(value)
    if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
        raise ValueError(f"{name!r:.40} is not a name of a file beside the list")
    return name


def listed_shards(folder: Path, *, images: int | None = None) -> list[Shard]:
    """Read the lists of all shards of the run to which shard 0 belongs.

    Without `images` the lists give the number of images. Some lists are left over from earlier runs and are ignored:
    lists with another key, chunk size or number of images, and lists of chunks that another list already has. DataError
    if there is no list, or if the number of images is another one than `images`.
    """
    if images is not None and images < 1:
        raise DataError(f"{folder}: {images} images are expected, at least 1 is needed; raise sampling.images")
    everything = [read_shard(path) for path in sorted(folder.glob("shard-*.json"))]
    if not everything:
        raise DataError(f"{folder}: has no shard-*.json, at least one is needed; {_AGAIN}")
    run = everything[0]
    if images is None:
        images = run.images
    if run.images != images:
        raise DataError(f"{folder}: is a run of {run.images} images, {images} are expected; {_AGAIN}")
    shards: list[Shard] = []
    listed: set[str] = set()
    for shard in everything:
        files = {chunk.file for chunk in shard.chunks}
        same_run = (shard.key, shard.images, shard.chunk) == (run.key, run.images, run.chunk)
        if same_run and (shard.failure or files - listed):
            shards.append(shard)
            listed |= files
    if not shards:
        raise DataError(f"{folder}: holds 0 images, {images} are expected; {_AGAIN}")
    return shards


def stream_samples(folder: Path, *, images: int) -> Iterator[Chunk]:
    """Yield the chunks of images 0 … images − 1 of a run, in order; one chunk is in memory at a time.

    `folder` holds `shard-*.json` and the listed chunk files. Each chunk must exist, have the listed sha256 and the key
    of its shard, and begin where the chunk before ends. Otherwise DataError is raised, at the latest after the last
    chunk.
    """
    shards = listed_shards(folder, images=images)
    for shard in shards:
        if shard.failure is not None:
            raise DataError(f"{shard.path}: holds no images, {shard.failure.text}")
    listed = {chunk: shard.key for shard in shards for chunk in shard.chunks}
    count = 0
    for chunk in sorted(listed, key=lambda chunk: (len(chunk.file), chunk.file)):
        loaded = read_chunk(folder, chunk, key=listed[chunk])
        if loaded.first != count:
            raise DataError(f"{folder}: image {count} is missing, the next chunk starts at {loaded.first}; {_AGAIN}")
        count += len(loaded.labels)
        yield loaded
    if count != images:
        raise DataError(f"{folder}: holds {count} images, {images} are expected; {_AGAIN}")


def read_chunk(folder: Path, listed: ListedChunk, *, key: str) -> Chunk:
    """Read one chunk file of images and check it against its entry in the list."""
    path = folder / listed.file
    if not path.is_file():
        raise DataError(f"{path}: listed but not there; {_AGAIN}")
    if (digest := sha256_file(path)) != listed.sha256:
        raise DataError(f"{path}: sha256 is {digest[:12]}…, the list says {listed.sha256[:12]}…; {_AGAIN}")
    arrays = load_arrays(path)
    missing = {"images", "labels", "first", "key"} - arrays.keys()
    if missing and "frames" in arrays:
        raise DataError(f"{path}: holds clips, this step is for images; give the samples of an image model")
    if missing:
        raise DataError(f"{path}: has no {', '.join(sorted(missing))}; {_AGAIN}")
    if str(arrays["key"]) != key or len(arrays["images"]) != len(arrays["labels"]):
        raise DataError(f"{path}: its key or number of labels does not fit the list; {_AGAIN}")
    check_origin(path, arrays, key)
    prompts = tuple(map(str, arrays["prompts"])) if "prompts" in arrays else None
    return Chunk(int(arrays["first"]), arrays["images"], arrays["labels"], prompts)


def check_origin(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> None:
    """Raise DataError unless the origin stored in a chunk file fits the `key` of its list."""
    if "origin" in arrays and origin_key(json.loads(str(arrays["origin"]))) != key:
        raise DataError(f"{path}: what it says of its samples is not what its list says; {_AGAIN}")
