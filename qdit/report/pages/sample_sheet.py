"""Show samples of one run as a picture, alone or beside full-precision samples of the same noise (`qdit show`).

Images stand in a grid, with their class above them. Each clip is a row of its frames, with its prompt above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from qdit.core.errors import DataError
from qdit.core.files import atomic_path
from qdit.metrics.clips import stream_clip_errors, stream_clips
from qdit.metrics.run import paired_errors
from qdit.metrics.samples import listed_shards, stream_samples
from qdit.report.render.sheets import AMPLIFICATION, difference

TILE, GAP, MARGIN = 64, 4, 12
"""Side of a small image or of a frame (pixels), and the room between two and around all."""
COLUMNS, IMAGES, PAIRS, CLIPS = 8, 32, 8, 4
"""Images in a row; images of a grid; images beside full precision's; clips."""
TEXT, LINE = 12, 18
"""Size of the letters and height of a line (pixels)."""
INK, PAPER = (32, 32, 32), (255, 255, 255)
FULL, QUANTIZED = "full precision", "this run"

Pixels = NDArray[np.uint8]
"""Images or frames (n, C, H, W) uint8."""


@dataclass(frozen=True)
class Samples:
    """The first samples of a run. Each sample is a strip (n, C, H, W) with a caption.

    For an image n is 1, for a clip it is the number of frames.
    """

    strips: tuple[Pixels, ...]
    captions: tuple[str, ...]
    of_clips: bool


@dataclass(frozen=True)
class Shown:
    """Facts about a picture of samples: number of samples, a text about them, and the mean squared error.

    The error is the mean of (sample − full precision)² over all `total` samples of the run. Without full-precision
    samples it is None.
    """

    count: int
    kind: str
    error: float | None
    total: int


def show(samples: Path, out: Path, *, beside: Path | None = None, count: int | None = None) -> Shown:
    """Write a PNG of the first `count` samples of a folder. With `beside`, full-precision samples stand beside them.

    DataError for a folder without samples, and for samples that cannot be compared.
    """
    shards = listed_shards(samples)
    if failure := next((shard.failure for shard in shards if shard.failure), None):
        raise DataError(f"{samples}: holds no samples: {failure.text}")
    total, of_clips = shards[0].images, is_of_clips(shards[0].origin)
    wanted = count or (CLIPS if of_clips else IMAGES if beside is None else PAIRS)
    run = first_samples(samples, wanted, total=total, of_clips=of_clips)
    error = None
    if beside is None:
        picture = grid(run)
    else:
        full = first_samples(beside, wanted, total=total, of_clips=of_clips)
        require_comparable(samples, run, beside, full)
        errors = stream_clip_errors(samples, beside, clips=total) if of_clips else paired_errors(samples, beside, total)
        error = float(np.mean(errors))
        picture = comparison(run, full)
    with atomic_path(out) as temporary, temporary.open("wb") as data:
        picture.save(data, format="PNG", optimize=True)
    return Shown(len(run.strips), "clips" if of_clips else "images", error, total)


def is_of_clips(origin: object) -> bool:
    """Return whether the samples of a shard are clips; `origin` is what the shard's file says about its samples."""
    return isinstance(origin, dict) and (origin.get("family") == "stdit3" or origin.get("prompts") is not None)


def first_samples(folder: Path, count: int, *, total: int, of_clips: bool) -> Samples:
    """Read the first `count` samples of a run that has `total`. Later chunks are not read."""
    strips: list[Pixels] = []
    captions: list[str] = []
    if of_clips:
        for clips in stream_clips(folder, clips=total):
            strips += [frames.transpose(1, 0, 2, 3) for frames in clips.frames]
            captions += [f"{prompt} ({number})" for prompt, number in clips.names]
            if len(strips) >= count:
                break
    else:
        for chunk in stream_samples(folder, images=total):
            strips += [image[None] for image in chunk.images]
            captions += [str(label) if label >= 0 else "" for label in chunk.labels.tolist()]
            if len(strips) >= count:
                break
    return Samples(tuple(strips[:count]), tuple(captions[:count]), of_clips)


def require_comparable(samples: Path, run: Samples, beside: Path, full: Samples) -> None:
    """Raise DataError unless both folders show the same classes or prompts at the same size."""
    shapes = [[strip.shape for strip in shown.strips] for shown in (run, full)]
    if run.captions != full.captions or shapes[0] != shapes[1]:
        raise DataError(
            f"{samples} and {beside} show other classes, prompts or sizes; sample both with the same protocol"
            " and number"
        )


def grid(run: Samples) -> Image.Image:
    """Return a picture of samples alone: images in rows of eight, each clip in one row."""
    if run.of_clips:
        rows = [([strip], caption) for strip, caption in zip(run.strips, run.captions, strict=True)]
        return stacked([labelled_strips(strips, [""], caption) for strips, caption in rows])
    numbers = iter(zip(run.strips, run.captions, strict=True))
    parts = []
    while row := list(islice(numbers, COLUMNS)):
        parts.append(labelled_columns([np.concatenate([strip for strip, _ in row])], [""], [word for _, word in row]))
    return stacked(parts)


def comparison(run: Samples, full: Samples) -> Image.Image:
    """Return a picture of full precision, the run and their difference, below each other."""
    words = [FULL, QUANTIZED, f"difference x {AMPLIFICATION}"]
    if run.of_clips:
        triples = zip(full.strips, run.strips, run.captions, strict=True)
        return stacked([labelled_strips([a, b, difference(b, a)], words, caption) for a, b, caption in triples])
    parts = []
    for first in range(0, len(run.strips), COLUMNS):
        columns = slice(first, first + COLUMNS)
        whole, quantized = np.concatenate(full.strips[columns]), np.concatenate(run.strips[columns])
        strips = [whole, quantized, difference(quantized, whole)]
        parts.append(labelled_columns(strips, words, run.captions[columns]))
    return stacked(parts)


def labelled_columns(strips: Sequence[Pixels], words: Sequence[str], captions: Sequence[str]) -> Image.Image:
    """Return a picture of rows of images, with a word before each row and a caption above each column."""
    body, left, step = beside_words(strips, words, above=LINE)
    pen = ImageDraw.Draw(body)
    for column, caption in enumerate(captions):
        pen.text((left + column * step + (step - GAP) / 2, 2), caption, fill=INK, font=letters(), anchor="mt")
    return body


def labelled_strips(strips: Sequence[Pixels], words: Sequence[str], caption: str) -> Image.Image:
    """Return a picture of rows of frames, with a word before each row and one caption above all."""
    body, _, _ = beside_words(strips, words, above=LINE, least=int(letters().getlength(caption)) + 1)
    ImageDraw.Draw(body).text((0, 2), caption, fill=INK, font=letters())
    return body


def beside_words(
    strips: Sequence[Pixels], words: Sequence[str], *, above: int, least: int = 0
) -> tuple[Image.Image, int, int]:
    """Return a picture of strips below each other, each with a word before it, and two numbers of pixels.

    The two numbers are the width of the words, and the distance from one column to the next.
    """
    height, width = strips[0].shape[2:]
    factor = max(1, TILE // max(height, width))
    wide, high = width * factor, height * factor
    longest = max(letters().getlength(word) for word in words)
    left = int(longest) + 2 * GAP if longest else 0
    columns = max(len(strip) for strip in strips)
    size = max(left + columns * (wide + GAP) - GAP, least), above + len(strips) * (high + GAP) - GAP
    body = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(body)
    for row, (strip, word) in enumerate(zip(strips, words, strict=True)):
        top = above + row * (high + GAP)
        pen.text((0, top + high / 2), word, fill=INK, font=letters(), anchor="lm")
        for column, image in enumerate(strip):
            pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
            tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((wide, high), Image.Resampling.NEAREST)
            body.paste(tile, (left + column * (wide + GAP), top))
    return body, left, wide + GAP


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below each other, with a margin."""
    width = max(part.width for part in parts) + 2 * MARGIN
    picture = Image.new("RGB", (width, sum(part.height + MARGIN for part in parts) + MARGIN), PAPER)
    top = MARGIN
    for part in parts:
        picture.paste(part, (MARGIN, top))
        top += part.height + MARGIN
    return picture


def letters() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow includes."""
    return ImageFont.load_default(TEXT)
