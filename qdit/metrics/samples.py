"""The images of a run, read back from its chunk files and checked against the lists its sample jobs wrote."""

from pathlib import Path

import numpy as np

from qdit.artifacts import load_arrays, read_json, sha256_file
from qdit.errors import DataError

_AGAIN = "run the sample step again"


def read_samples(folder: Path, *, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Images 0 … images − 1 of a run: uint8 (N, C, H, W) and the labels they were asked for, int64 (N,).

    `folder` holds `shard-*.json` and the chunk files they list. Raises DataError unless every chunk is there, has
    the listed sha256 and the key of its shard, follows its predecessor without a gap, and the counts agree.
    """
    if images < 1:
        raise DataError(f"{folder}: {images} images were asked for, at least 1 is needed; raise sampling.images")
    parts = [_read_chunk(folder / entry["file"], entry) for entry in _listed_chunks(folder, images)]
    parts.sort(key=lambda part: int(part["first"]))
    found = 0
    for part in parts:
        if int(part["first"]) != found:
            raise DataError(
                f"{folder}: image {found} is missing, the next chunk starts at {int(part['first'])}; {_AGAIN}"
            )
        found += len(part["labels"])
    if found != images:
        raise DataError(f"{folder}: holds {found} images, {images} were asked for; {_AGAIN}")
    return np.concatenate([p["images"] for p in parts]), np.concatenate([p["labels"] for p in parts])


def _listed_chunks(folder: Path, images: int) -> list[dict[str, str]]:
    """Entries {file, sha256, key} of the run that wrote shard 0.

    Lists of another key, chunk size or number of images are left over from a run with another configuration.
    """
    run: tuple[str, int, int] | None = None
    entries: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("shard-*.json")):
        listing = read_json(path)
        try:
            identity = (str(listing["key"]), int(listing["images"]), int(listing["chunk"]))
            listed = [{"file": str(entry["file"]), "sha256": str(entry["sha256"])} for entry in listing["chunks"]]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path}: not a list of sample chunks; {_AGAIN}") from None
        run = run or identity
        if identity == run:
            for entry in listed:
                entries.setdefault(entry["file"], {**entry, "key": run[0]})
    if run is None:
        raise DataError(f"{folder}: has no shard-*.json, at least one is needed; {_AGAIN}")
    if run[1] != images:
        raise DataError(f"{folder}: is a run of {run[1]} images, {images} were asked for; {_AGAIN}")
    return list(entries.values())


def _read_chunk(path: Path, entry: dict[str, str]) -> dict[str, np.ndarray]:
    """Arrays of one chunk file, checked against its entry in the list."""
    if not path.is_file():
        raise DataError(f"{path}: listed but not there; {_AGAIN}")
    if (digest := sha256_file(path)) != entry["sha256"]:
        raise DataError(f"{path}: sha256 is {digest[:12]}…, the list says {entry['sha256'][:12]}…; {_AGAIN}")
    arrays = load_arrays(path)
    missing = {"images", "labels", "first", "key"} - arrays.keys()
    if missing:
        raise DataError(f"{path}: has no {', '.join(sorted(missing))}; {_AGAIN}")
    if str(arrays["key"]) != entry["key"] or len(arrays["images"]) != len(arrays["labels"]):
        raise DataError(f"{path}: its key or number of labels does not fit the list; {_AGAIN}")
    return arrays
