"""Make contact sheets: the first images of every row of a block as PNG strips, and their difference to full precision.

Every run starts from the same noise. So the images of one column belong together.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qdit.core.errors import DataError
from qdit.core.files import load_arrays
from qdit.core.metrics_record import Status
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Block, is_full_precision, is_measured

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

SMALL_SIDE, SMALL_TILE, SMALL_COUNT = 32, 40, 24
"""Small images: largest side (pixels), side of the enlarged tile (pixels), images in a strip."""

LARGE_TILE, LARGE_COUNT = 120, 8
"""Larger images: side of the thumbnail (pixels), images in a strip."""

GAP = 2
AMPLIFICATION = 16
"""Factor of the shown absolute difference; it is the same for all strips, so that they can be compared."""

DIFFERENCE_COLOUR = np.array([255, 196, 84])
"""Colour of a saturated difference; samples rarely have it, so the strips are not mistaken for samples."""


@dataclass(frozen=True)
class Strip:
    """One row of a contact sheet: PNG images of samples, and of their difference (None for full precision).

    `note` is the reason why images are missing.
    """

    row: Row
    samples: bytes | None
    difference: bytes | None
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """The contact sheet of a block: one strip of images for each row.

    `tile` is the side of one image in pixels, `gap` the space between two images. `labels` stand above the columns, and
    `corner` explains them. `captions` are the prompts of the columns. Pictures are shown `height` pixels high; with 0
    they keep their size.
    """

    strips: tuple[Strip, ...]
    labels: tuple[int, ...]
    tile: int
    gap: int = GAP
    corner: str = "given class"
    captions: tuple[str, ...] = ()
    height: int = 0


def contact_sheet(block: Block, results: Path) -> Sheet:
    """Return one strip of images for each run of the block. A run without samples has a note instead."""
    samples = [(row, images_of(results, row)) for row in block.rows if "key" in row]
    readable = [images for _, images in samples if not isinstance(images, str)]
    full = next((images for row, images in samples if is_full_precision(row) and not isinstance(images, str)), None)
    strips = tuple(_strip(row, images, full) for row, images in samples)
    tile = _tile(readable[0][0]) if readable else SMALL_TILE
    return Sheet(strips=strips, labels=tuple(int(label) for label in readable[0][1]) if readable else (), tile=tile)


def images_of(results: Path, row: Row) -> tuple[Images, Labels] | str:
    """Return the run's first images, or the reason why there are none. Old files of a failed run are ignored."""
    return _first_images(results, row) if is_measured(row) or row["state"] == Status.MISSING else row["status"]


def _first_images(results: Path, row: Row) -> tuple[Images, Labels] | str:
    """The first images (n, C, H, W) and labels (n,) of a run, or why there are none."""
    path = row["key"].folder(results) / "samples" / "00000.npz"
    try:
        arrays = load_arrays(path)
    except DataError:
        return "no samples" if not path.exists() else "samples are not readable"
    if not _are_samples(arrays):
        return "samples are not uint8 images with labels"
    images, labels = arrays["images"], arrays["labels"]
    count = SMALL_COUNT if images.shape[-1] <= SMALL_SIDE else LARGE_COUNT
    return images[:count], labels[:count]


def _are_samples(arrays: Mapping[str, NDArray[Any]]) -> bool:
    images, labels = arrays.get("images"), arrays.get("labels")
    return (
        images is not None
        and labels is not None
        and images.ndim == 4
        and images.size > 0
        and images.dtype == np.uint8
        and images.shape[1] in (1, 3)
        and labels.shape == (len(images),)
    )


def _strip(row: Row, samples: tuple[Images, Labels] | str, full: tuple[Images, Labels] | None) -> Strip:
    if isinstance(samples, str):
        return Strip(row, None, None, samples)
    images, labels = samples
    picture = png(strip_image(images, tile=_tile(images)))
    if is_full_precision(row):
        return Strip(row, picture, None)
    if full is None or full[0].shape != images.shape or not np.array_equal(full[1], labels):
        return Strip(row, picture, None, "no full-precision images with the same labels to compare with")
    return Strip(row, picture, png(strip_image(difference(images, full[0]), tile=_tile(images))))


def difference(images: Images, full: Images) -> Images:
    """Return |images − full|, the largest over the channels, as colours: (n, C, H, W) uint8 → (n, 3, H, W) uint8.

    The differences are amplified, so that small differences can be seen.
    """
    distance = np.abs(images.astype(np.int16) - full.astype(np.int16)).max(axis=1)
    shown = np.minimum(distance * AMPLIFICATION, 255)
    coloured: Images = (shown[:, None] * DIFFERENCE_COLOUR[None, :, None, None] // 255).astype(np.uint8)
    return coloured


def _tile(images: Images) -> int:
    return SMALL_TILE if images.shape[-1] <= SMALL_SIDE else LARGE_TILE


def strip_image(images: Images, *, tile: int, gap: int = GAP) -> Image.Image:
    """Put images (n, C, H, W) side by side, each `tile` pixels wide, with transparent gaps.

    Small images keep sharp pixel edges.
    """
    strip = Image.new("RGBA", (len(images) * (tile + gap) - gap, tile), (0, 0, 0, 0))
    resampling = Image.Resampling.NEAREST if images.shape[-1] <= tile else Image.Resampling.BOX
    for number, image in enumerate(images):
        pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((tile, tile), resampling)
        strip.paste(picture, (number * (tile + gap), 0))
    return strip


def png(image: Image.Image) -> bytes:
    """Return an image as PNG bytes without time or software tags."""
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data.getvalue()


def data_uri(data: bytes) -> str:
    """Return PNG or GIF bytes as a data URI, which a page can contain."""
    kind = "gif" if data.startswith(b"GIF") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")
