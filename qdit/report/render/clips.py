"""Show clips of every row of a block side by side, as animated GIFs for a page.

Every run starts from the same noise, so the clips of one column belong together.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qdit.core.errors import DataError
from qdit.core.files import load_arrays
from qdit.core.metrics_record import Status
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Block, is_full_precision, is_measured
from qdit.report.render.sheets import GAP, Sheet, Strip, difference

Frames = NDArray[np.uint8]
"""Clips (n, 3, T, H, W)."""

COUNT = 8
"""Clips in a strip, evenly spaced over the run, so that several suites are seen."""
TILE = 64
"""Height of a clip on the page, in pixels."""
FRAMES = 17
"""About this many frames of a longer clip are shown: every third of the 51 of a full-size clip."""
MILLISECONDS = 125
"""Duration of a frame."""


@dataclass(frozen=True)
class Shown:
    """The clips of a run that a table shows, with their prompts."""

    frames: Frames
    prompts: tuple[str, ...]


def shows_clips(block: Block) -> bool:
    """Return whether the runs of a block make clips, not images."""
    return any(row.get("clips") for row in block.rows)


def clip_sheet(block: Block, results: Path) -> Sheet:
    """Return one strip of clips for each run of the block. A run without clips has a note instead."""
    clips_by_row = [(row, clips_of(row, results)) for row in block.rows if "key" in row]
    some = next((clips for _, clips in clips_by_row if isinstance(clips, Shown)), None)
    full = next((clips for row, clips in clips_by_row if is_full_precision(row) and isinstance(clips, Shown)), None)
    zoom = TILE / some.frames.shape[-2] if some else 1.0
    return Sheet(
        strips=tuple(_strip(row, clips, full) for row, clips in clips_by_row),
        labels=tuple(range(1, len(some.prompts) + 1)) if some else (),
        tile=TILE,
        gap=round(GAP * zoom),
        corner="prompt",
        captions=some.prompts if some else (),
        height=TILE,
    )


def clips_of(row: Row, results: Path) -> Shown | str:
    """Return the clips of a run that a table shows, or the reason why there are none.

    Old files of a failed run are ignored.
    """
    if not is_measured(row) and row["state"] != Status.MISSING:
        return str(row["status"])
    paths = sorted((row["key"].folder(results) / "samples").glob("[0-9]*.npz"))
    if not paths:
        return "no clips"
    try:
        shown = chosen_clips(paths, row.get("images"))
    except (DataError, KeyError, ValueError, IndexError):
        return "clips are not readable"
    if shown.frames.ndim != 5 or shown.frames.shape[1] != 3 or shown.frames.dtype != np.uint8:
        return "clips are not uint8 RGB with prompts"
    return Shown(thumbnails(shown.frames), shown.prompts)


def chosen_clips(paths: list[Path], count: int | None) -> Shown:
    """Read a few evenly spaced clips (`COUNT`) of a run that has `count` clips; None: count them in the files.

    Only the chunks with these clips are read, because a full-size run has 27 GB.
    """
    size, last = (len(load_arrays(path)["prompts"]) for path in (paths[0], paths[-1]))
    total = count or size * (len(paths) - 1) + last
    frames, prompts = [], []
    for number in np.linspace(0, total - 1, min(COUNT, total)).round().astype(int):
        chunk, row = divmod(int(number), size)
        arrays = load_arrays(paths[chunk])
        frames.append(arrays["frames"][row])
        prompts.append(str(arrays["prompts"][row]))
    return Shown(np.stack(frames), tuple(prompts))


def thumbnails(frames: Frames) -> Frames:
    """Reduce clips (n, 3, T, H, W) to fewer pixels and frames: full-size animations are too large for a page."""
    side, tempo = (max(1, frames.shape[axis] // most) for axis, most in ((-2, TILE), (2, FRAMES)))
    small = frames[:, :, ::tempo, ::side, ::side]
    return small if side == 1 else small[..., : small.shape[-2] // 2 * 2, : small.shape[-1] // 2 * 2]


def _strip(row: Row, clips: Shown | str, full: Shown | None) -> Strip:
    if isinstance(clips, str):
        return Strip(row, None, None, clips)
    picture = gif(strip_frames(clips.frames))
    if is_full_precision(row):
        return Strip(row, picture, None)
    if full is None or full.frames.shape != clips.frames.shape or full.prompts != clips.prompts:
        return Strip(row, picture, None, "no full-precision clips of the same prompts to compare with")
    return Strip(row, picture, gif(strip_frames(clip_difference(clips.frames, full.frames))))


def clip_difference(clips: Frames, full: Frames) -> Frames:
    """Return |clips − full| of every frame, amplified and coloured as for images: (n, 3, T, H, W) uint8."""
    count, _, frames, height, width = clips.shape
    flat, other = (batch.swapaxes(1, 2).reshape(-1, 3, height, width) for batch in (clips, full))
    return difference(flat, other).reshape(count, frames, 3, height, width).swapaxes(1, 2)


def strip_frames(clips: Frames, *, gap: int = GAP) -> NDArray[np.uint8]:
    """Put clips side by side with white gaps: (n, 3, T, H, W) → (T, H, n·(W + gap) − gap, 3)."""
    count, _, frames, height, width = clips.shape
    strip = np.full((frames, height, count * (width + gap) - gap, 3), 255, np.uint8)
    for number, clip in enumerate(clips):
        start = number * (width + gap)
        strip[:, :, start : start + width] = clip.transpose(1, 2, 3, 0)
    return strip


def gif(frames: NDArray[np.uint8]) -> bytes:
    """Turn frames (T, H, W, 3) into a GIF that repeats, with 256 colours; equal frames give equal bytes."""
    count, height, width, _ = frames.shape
    stacked = Image.fromarray(np.ascontiguousarray(frames).reshape(count * height, width, 3))
    indexed = stacked.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *rest = [indexed.crop((0, number * height, width, (number + 1) * height)) for number in range(count)]
    data = io.BytesIO()
    first.save(data, format="GIF", save_all=True, append_images=rest, duration=MILLISECONDS, loop=0, optimize=False)
    return data.getvalue()
