"""The step that extracts the features of a shard's sample chunks.

The sampling job runs it, because torch is loaded there.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.files import save_arrays
from qdit.metrics.extractor_names import extractor_code
from qdit.metrics.extractors import load_extractor
from qdit.metrics.features import Extraction, Extractor, Features, RunFeatures, features_path, is_current, save_features
from qdit.metrics.samples import Chunk, Shard, read_chunk, read_shard, shard_path

BLOCK = 128
"""Images given to an extractor at a time: a multiple of every extractor's batch, few enough for large images."""


def made_by(extractor: Extractor) -> Extraction:
    """Origin of features that this extractor computes: its name, its weights, and the digest of the code."""
    code = code_digest("qdit.metrics.extraction", *extractor_code(extractor.name))
    return Extraction(extractor.name, extractor.digest, extractor.classes_are_labels, code)


def extract_shard(folder: Path, shard: int, extractor: Extractor) -> Path:
    """Write the features of one shard's images.

    Features that the same extractor and code made of these chunks are kept. The chunks are read one after the other. If
    the images of a shard could not be made, its file is empty.
    """
    listed = read_shard(shard_path(folder, shard))
    path = features_path(folder, shard)
    if listed.failure is not None:
        save_arrays(path, {})
        return path
    maker = made_by(extractor)
    if not is_current(path, listed, maker):
        first, features = _extract(folder, listed, extractor, maker)
        save_features(path, features, listed, first=first)
    return path


def extract_file(folder: Path, shard: int | None, extractor: str, weights: Path, *, device: str = "cpu") -> list[Path]:
    """Write the features of one shard, or of all shards, with the extractor of this name and these weights."""
    numbers = [shard]
    if shard is None:
        numbers = [read_shard(path).number for path in sorted(folder.glob("shard-*.json"))]
    if not numbers:
        raise DataError(f"{folder}: has no shard-*.json, at least one is needed; run the sample step first")
    loaded = load_extractor(extractor, weights, device=device)
    return [extract_shard(folder, number, loaded) for number in numbers if number is not None]


def _extract(folder: Path, shard: Shard, extractor: Extractor, maker: Extraction) -> tuple[int, RunFeatures]:
    """Number of the first image and the features of all."""
    labels: list[np.ndarray] = []
    starts: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for chunk in _chunks(folder, shard):
            labels.append(chunk.labels)
            starts.append(chunk.first)
            yield chunk.images

    parts = [extractor(block) for block in _blocks(images())]
    if not parts:
        raise DataError(f"{shard.path}: lists no chunks, at least one is needed; run the sample step again")
    pool, spatial, logits = (
        np.concatenate([getattr(features, layer) for features in parts]) for layer in ("pool", "spatial", "logits")
    )
    return starts[0], RunFeatures(Features(pool, spatial, logits), np.concatenate(labels), maker)


def _chunks(folder: Path, shard: Shard) -> Iterator[Chunk]:
    """The shard's chunks, which must follow each other without a gap."""
    end: int | None = None
    for listed in shard.chunks:
        chunk = read_chunk(folder, listed, key=shard.key)
        if end not in (None, chunk.first):
            raise DataError(
                f"{shard.path}: image {end} is missing, the next chunk starts at {chunk.first}; sample again"
            )
        end = chunk.first + len(chunk.labels)
        yield chunk


def _blocks(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Images in blocks of BLOCK; the last block may be smaller."""
    waiting: list[np.ndarray] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= BLOCK:
            joined = np.concatenate(waiting)
            whole = len(joined) // BLOCK * BLOCK
            for start in range(0, whole, BLOCK):
                yield joined[start : start + BLOCK]
            waiting = [joined[whole:]] if whole < len(joined) else []
    if waiting:
        yield np.concatenate(waiting)
