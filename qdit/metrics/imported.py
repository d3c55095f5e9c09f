"""The step that makes sample chunks from images of another program.

The chunks name the source file and the protocol that it states.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.run import IMPORTED
from qdit.metrics.image_files import ImageSource, open_images, require_indices
from qdit.metrics.samples import listed_shards, read_chunk
from qdit.metrics.statement import require_same, stated_protocol
from qdit.sampling.chunks import Mode, Shard, make_chunks
from qdit.sampling.family import Arrays
from qdit.sampling.origin import PAIRED, Origin

UNKNOWN_LABEL = -1
"""Label of an image whose class is not known."""


def as_it_is(model: Any) -> Any:
    """Return the model unchanged: imported samples need no model."""
    return model


MODE = Mode(IMPORTED, as_it_is, lambda: "none")
NO_CHECKPOINT = "none"


def import_images(path: Path, folder: Path, *, chunk: int, count: int | None = None, like: Path | None = None) -> int:
    """Write the images of a folder of PNGs or of an npz as one shard of chunks in `folder`; return their number.

    The list names the source file. Existing chunks of the same images are kept. With `count` the source must have
    exactly this number of images. `like` is a folder of full-precision samples: the images must have their number and
    shape, and are paired with them if the source states their protocol (`qdit.metrics.statement`). DataError for images
    that cannot be read (`qdit.metrics.image_files`) or do not fit.
    """
    source = open_images(path)
    if count is not None and source.count != count:
        raise DataError(
            f"{path}: holds {source.count} images, {count} are expected; give as many as the other rows have"
        )
    stated = stated_protocol(path)
    if stated is not None and path.is_dir():
        require_indices(path)
    model: dict[str, Any] = {"method": IMPORTED, "source": {"name": path.name, "sha256": source.sha256()}}
    if like is not None:
        require_like(source, like, stated)
        model |= {PAIRED: stated is not None}
    shard = Shard(source.count, chunk, 0, -(-source.count // chunk))
    origin = Origin(
        family=IMPORTED,
        protocol=dict(stated or {}),
        shape=(),
        chunk=chunk,
        checkpoint_sha256=NO_CHECKPOINT,
        model=model,
        mode={"name": IMPORTED, "backend": "none"},
        code=code_digest("qdit.metrics.imported"),
    ).to_dict()
    chunks = make_chunks(shard, folder, origin, ("images", "labels"), Reader(source, chunk).chunk)
    shard.write(folder, MODE, {**shard.listing(origin), "chunks": chunks})
    return source.count


def require_like(source: ImageSource, like: Path, stated: Mapping[str, Any] | None) -> None:
    """Raise DataError unless the images have the number and shape of the full-precision samples `like`.

    If they state a protocol, it must be that of these samples too.
    """
    first = listed_shards(like)[0]
    if first.failure is not None:
        return  # of full precision: the evaluation says so
    if source.count != first.images:
        raise DataError(f"{source.path}: holds {source.count} images, full precision has {first.images}; give as many")
    shape = read_chunk(like, first.chunks[0], key=first.key).images.shape[1:]
    if source.shape != shape:
        raise DataError(
            f"{source.path}: images of (channels, height, width) {source.shape}, full precision makes {tuple(shape)};"
            " give images of that size and kind, unscaled"
        )
    if stated is not None:
        require_same(source.path, stated, first.made_of().protocol)


class Reader:
    """Reader of a source's images, from the first to the last; images of chunks that exist already are skipped."""

    def __init__(self, source: ImageSource, chunk: int) -> None:
        self.source, self.size = source, chunk
        self.blocks = source.blocks(chunk)
        self.next = 0

    def chunk(self, samples: range, count: int) -> Arrays:
        """Read the images of one chunk and their labels; the label −1 means not known."""
        number = samples.start // self.size
        images = next(islice(self.blocks, number - self.next, None))
        self.next = number + 1
        labels = self.source.labels
        numbers = slice(samples.start, samples.start + count)
        known = np.full(count, UNKNOWN_LABEL, np.int64) if labels is None else labels[numbers]
        return {"images": images[:count], "labels": known}
