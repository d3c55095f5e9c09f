"""Write the clips of a table as MP4 files; each file repeats its video several times."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdit.core.errors import ConfigError
from qdit.core.mp4 import write_mp4
from qdit.report.data.rows import Block
from qdit.report.render.clips import MILLISECONDS, Shown, clips_of, shows_clips, strip_frames
from qdit.report.render.display import bits_text
from qdit.report.render.sheets import GAP
from qdit.report.tables.kinds import load_table

HEIGHT, REPEATS = 128, 4
"""Least height of a clip in pixels, and the number of repetitions."""


def write_clip_files(profile: Mapping[str, Any], table: str, results: Path, folder: Path) -> list[Path]:
    """Write `<form>-<label>-<bits>.mp4` for every measured row, and `<form>.mp4` with all rows below each other.

    In `<form>.mp4` the rows have the order of the table. If several blocks have one form, the names begin with form
    and setting, so that no file replaces another (`block_names`). Raises ConfigError for a table without clips.
    """
    loaded = load_table(profile, table, results)
    if not any(map(shows_clips, loaded.blocks)):
        raise ConfigError(f"table {table!r} shows no clips; give one of kind table3")
    written = []
    for block, begin in zip(loaded.blocks, block_names(loaded.blocks), strict=True):
        clips_by_row = [(row, clips_of(row, results)) for row in block.rows if "key" in row]
        strips = {
            f"{begin}-{row['label']}-{bits_text(row).lower()}": strip_frames(clips.frames)
            for row, clips in clips_by_row
            if isinstance(clips, Shown)
        }
        if len({strip.shape for strip in strips.values()}) == 1:
            gap = np.full_like(next(iter(strips.values()))[:, :GAP], 255)
            below = [piece for strip in strips.values() for piece in (strip, gap)][:-1]
            strips[begin] = np.concatenate(below, axis=1)
        height = max((clips.frames.shape[-2] for _, clips in clips_by_row if isinstance(clips, Shown)), default=HEIGHT)
        for name, strip in strips.items():
            written.append(folder / f"{name}.mp4")
            _write(written[-1], strip, zoom=max(1, HEIGHT // height))
    return written


def block_names(blocks: Sequence[Block]) -> list[str]:
    """Return the first words of the file names of each block: its form, and more where that is not unique.

    More are the setting, then the scope, then the number of the block.
    """
    keys = ("form", "setting", "scope")
    for count in range(1, len(keys) + 1):
        names = ["-".join(str(block.rows[0][key]) for key in keys[:count]) for block in blocks]
        if len(set(names)) == len(names):
            return names
    return [f"{name}-{number}" for number, name in enumerate(names, start=1)]


def _write(path: Path, strip: NDArray[np.uint8], *, zoom: int) -> None:
    large = strip.repeat(zoom, axis=1).repeat(zoom, axis=2)
    write_mp4(path, np.concatenate([large] * REPEATS), fps=1000 / MILLISECONDS)
