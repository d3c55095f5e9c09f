"""Show samples at full size: a few images or clips of each method at the headline's bits, and their differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from qdit.core.ranking import value_text
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import is_full_precision, is_measured
from qdit.report.data.standings import Contest, short_name
from qdit.report.render.clips import TILE, Shown, clip_difference, clips_of, gif, shows_clips, strip_frames
from qdit.report.render.page_files import template_markup
from qdit.report.render.sheets import (
    AMPLIFICATION,
    Images,
    Labels,
    data_uri,
    difference,
    images_of,
    png,
    strip_image,
)
from qdit.report.render.sheets import GAP as CLIP_GAP

ENLARGED = 56
"""Pixels of a small image's side on the page; images of at least this side are shown as they are."""

WIDTH = 360
"""Pixels of a row of images or clips, so that it fits a phone."""

GAP = 4


@dataclass(frozen=True)
class Exhibit:
    """Samples of one method (images as PNG, clips as GIF), their difference to full precision, name and value.

    Pictures are shown `width` pixels wide; with 0 they keep their size.
    """

    name: str
    value: str
    samples: bytes
    difference: bytes | None
    width: int = 0


def showcase_html(contest: Contest, results: Path) -> Markup:
    """Return samples of full precision and of every method as HTML, least damage first; empty without samples."""
    full = next((row for row in contest.block.rows if is_full_precision(row) and is_measured(row)), None)
    rows = [*((full,) if full else ()), *contest.rows]
    moves, prompts = shows_clips(contest.block), tuple[str, ...]()
    if moves:
        exhibits, prompts = _clip_exhibits(rows, full, results)
    else:
        exhibits = _image_exhibits(rows, full, results)
    if not exhibits:
        return Markup("")
    return template_markup(
        "showcase.html.j2",
        bits=contest.bits,
        exhibits=exhibits,
        uri=data_uri,
        amplification=AMPLIFICATION,
        samples="clips" if moves else "samples",
        prompts=prompts,
    )


def _image_exhibits(rows: Sequence[Row], full: Row | None, results: Path) -> list[Exhibit]:
    reference = images_of(results, full) if full is not None else "none"
    known = reference if not isinstance(reference, str) else None
    return [exhibit for row in rows if (exhibit := _image_exhibit(results, row, None if row is full else known))]


def _image_exhibit(results: Path, row: Row, full: tuple[Images, Labels] | None) -> Exhibit | None:
    samples = images_of(results, row)
    if isinstance(samples, str):
        return None
    images, labels = samples
    tile = max(images.shape[-1], ENLARGED)
    count = max(WIDTH // (tile + GAP), 1)
    paired = full is not None and full[0].shape == images.shape and np.array_equal(full[1], labels)
    return Exhibit(
        name=_name(row),
        value=_value(row),
        samples=png(strip_image(images[:count], tile=tile, gap=GAP)),
        difference=png(strip_image(difference(images[:count], full[0][:count]), tile=tile, gap=GAP))
        if paired and full is not None
        else None,
    )


def _clip_exhibits(rows: Sequence[Row], full: Row | None, results: Path) -> tuple[list[Exhibit], tuple[str, ...]]:
    """The first clips of each row that has some, and their prompts."""
    clips = [(row, shown) for row in rows if isinstance(shown := clips_of(row, results), Shown)]
    reference = next((shown for row, shown in clips if row is full), None)
    exhibits = [_clip_exhibit(row, shown, None if row is full else reference) for row, shown in clips]
    return exhibits, clips[0][1].prompts[: _clip_count(clips[0][1])] if clips else ()


def _clip_count(clips: Shown) -> int:
    """Clips that fit into the width."""
    height, width = clips.frames.shape[-2:]
    return max(round(WIDTH * height / (TILE * (width + CLIP_GAP))), 1)


def _clip_exhibit(row: Row, clips: Shown, full: Shown | None) -> Exhibit:
    count = _clip_count(clips)
    strip = strip_frames(clips.frames[:count])
    paired = full is not None and full.frames.shape == clips.frames.shape and full.prompts == clips.prompts
    return Exhibit(
        name=_name(row),
        value=_value(row),
        samples=gif(strip),
        difference=gif(strip_frames(clip_difference(clips.frames[:count], full.frames[:count])))
        if paired and full is not None
        else None,
        width=round(strip.shape[2] * TILE / strip.shape[1]),
    )


def _name(row: Row) -> str:
    return "Full precision" if is_full_precision(row) else short_name(row)


def _value(row: Row) -> str:
    return "" if is_full_precision(row) else value_text(row)
