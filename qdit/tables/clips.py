"""Clips of every row of a block, side by side: animated GIFs for the page.

Every run starts from the same noise, so the clips of one column belong together.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qdit.artifacts import load_arrays
from qdit.errors import DataError
from qdit.tables.results import Row
from qdit.tables.rows import Block, is_measured
from qdit.tables.sheets import GAP, Sheet, Strip, difference

Frames = NDArray[np.uint8]
"""Clips (n, 3, T, H, W)."""

COUNT = 8
"""Clips in a strip, evenly spaced over the run, so that several suites are seen."""
TILE = 64
"""Height of a clip on the page, in pixels."""
MILLISECONDS = 125
"""Of a frame."""


@dataclass(frozen=True)
class Shown:
    """Some clips of a run with their prompts."""

    frames: Frames
    prompts: tuple[str, ...]


def shows_clips(block: Block) -> bool:
    """Whether the runs of a block make clips."""
    return any(row.get("clips") for row in block.rows)


def clip_sheet(block: Block, results: Path) -> Sheet:
    """Strips of the block's runs below `results`; a run without clips has a note instead."""
    found = [(row, clips_of(row, results)) for row in block.rows if "key" in row]
    some = next((clips for _, clips in found if isinstance(clips, Shown)), None)
    full = next((clips for row, clips in found if row["method"] == "fp" and isinstance(clips, Shown)), None)
    zoom = TILE / some.frames.shape[-2] if some else 1.0
    return Sheet(
        strips=tuple(_strip(row, clips, full) for row, clips in found),
        labels=tuple(range(1, len(some.prompts) + 1)) if some else (),
        tile=TILE,
        gap=round(GAP * zoom),
        corner="prompt",
        captions=some.prompts if some else (),
        height=TILE,
    )


def clips_of(row: Row, results: Path) -> Shown | str:
    """The run's shown clips, or why there are none; one that failed has none, whatever is left in its folder."""
    if not is_measured(row) and not row["status"].startswith("missing"):
        return str(row["status"])
    paths = sorted((row["key"].folder(results) / "samples").glob("[0-9]*.npz"))
    if not paths:
        return "no clips"
    try:
        chunks = [load_arrays(path) for path in paths]
        frames = np.concatenate([chunk["frames"] for chunk in chunks])[: row.get("images")]
        prompts = [str(prompt) for chunk in chunks for prompt in chunk["prompts"]]
    except (DataError, KeyError, ValueError):
        return "clips are not readable"
    if frames.ndim != 5 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not len(frames) <= len(prompts):
        return "clips are not uint8 RGB with prompts"
    chosen = np.linspace(0, len(frames) - 1, min(COUNT, len(frames))).round().astype(int)
    return Shown(frames[chosen], tuple(prompts[number] for number in chosen))


def _strip(row: Row, clips: Shown | str, full: Shown | None) -> Strip:
    if isinstance(clips, str):
        return Strip(row, None, None, clips)
    picture = gif(strip_frames(clips.frames))
    if row["method"] == "fp":
        return Strip(row, picture, None)
    if full is None or full.frames.shape != clips.frames.shape or full.prompts != clips.prompts:
        return Strip(row, picture, None, "no full-precision clips of the same prompts to compare with")
    return Strip(row, picture, gif(strip_frames(clip_difference(clips.frames, full.frames))))


def clip_difference(clips: Frames, full: Frames) -> Frames:
    """|clips − full| of every frame, amplified and coloured as for images: (n, 3, T, H, W) uint8."""
    count, _, frames, height, width = clips.shape
    flat, other = (part.swapaxes(1, 2).reshape(-1, 3, height, width) for part in (clips, full))
    return difference(flat, other).reshape(count, frames, 3, height, width).swapaxes(1, 2)


def strip_frames(clips: Frames, *, gap: int = GAP) -> NDArray[np.uint8]:
    """Clips side by side with white gaps: (n, 3, T, H, W) → (T, H, n·(W + gap) − gap, 3)."""
    count, _, frames, height, width = clips.shape
    strip = np.full((frames, height, count * (width + gap) - gap, 3), 255, np.uint8)
    for number, clip in enumerate(clips):
        start = number * (width + gap)
        strip[:, :, start : start + width] = clip.transpose(1, 2, 3, 0)
    return strip


def gif(frames: NDArray[np.uint8]) -> bytes:
    """An animation (T, H, W, 3) that repeats, with one palette of 256 colours; equal frames give equal bytes."""
    count, height, width, _ = frames.shape
    stacked = Image.fromarray(np.ascontiguousarray(frames).reshape(count * height, width, 3))
    indexed = stacked.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *rest = [indexed.crop((0, number * height, width, (number + 1) * height)) for number in range(count)]
    data = io.BytesIO()
    first.save(data, format="GIF", save_all=True, append_images=rest, duration=MILLISECONDS, loop=0, optimize=False)
    return data.getvalue()
