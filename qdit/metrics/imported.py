"""Step: images of another program → sample chunks. Only their source file is known."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.run import IMPORTED
from qdit.metrics.image_files import ImageSource, open_images
from qdit.sampling.chunks import Mode, Shard, make_chunks
from qdit.sampling.family import Arrays
from qdit.sampling.origin import Origin

UNKNOWN_LABEL = -1
"""Of an image whose class is not known."""


def as_it_is(model: Any) -> Any:
    """Preparation of a model in the mode `imported`: it does nothing, because no model computes."""
    return model


MODE = Mode(IMPORTED, as_it_is, lambda: "none")
NO_CHECKPOINT = "none"


def import_images(path: Path, folder: Path, *, chunk: int) -> int:
    """Write the images of a folder of PNGs or of an npz as one shard of chunks in `folder`; return their number.

    The list names the source file. Existing chunks of the same images are kept. DataError for images that cannot be
    read (`qdit.metrics.image_files`).
    """
    source = open_images(path)
    shard = Shard(source.count, chunk, 0, -(-source.count // chunk))
    origin = Origin(
        family=IMPORTED,
        protocol={},
        shape=(),
        chunk=chunk,
        checkpoint_sha256=NO_CHECKPOINT,
        model={"method": IMPORTED, "source": {"name": path.name, "sha256": source.sha256()}},
        mode={"name": IMPORTED, "backend": "none"},
        code=code_digest("qdit.metrics.imported"),
    ).to_dict()
    chunks = make_chunks(shard, folder, origin, ("images", "labels"), Reader(source, chunk).chunk)
    shard.write(folder, MODE, {**shard.listing(origin), "chunks": chunks})
    return source.count


class Reader:
    """Reads the images of a source once, from the first to the last; chunks that are kept are skipped."""

    def __init__(self, source: ImageSource, chunk: int) -> None:
        self.source, self.size = source, chunk
        self.blocks = source.blocks(chunk)
        self.next = 0

    def chunk(self, samples: range, count: int) -> Arrays:
        """The images of one chunk and their labels, −1 where they are not known."""
        number = samples.start // self.size
        images = next(islice(self.blocks, number - self.next, None))
        self.next = number + 1
        labels = self.source.labels
        numbers = slice(samples.start, samples.start + count)
        known = np.full(count, UNKNOWN_LABEL, np.int64) if labels is None else labels[numbers]
        return {"images": images[:count], "labels": known}
