"""Samples at full size: a few images of each method at the headline's bits, and their difference to full precision."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import is_full_precision, is_measured
from qdit.report.data.standings import Contest, short_name
from qdit.report.render.clips import shows_clips
from qdit.report.render.headline import value_text
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

ENLARGED = 56
"""Pixels of a small image's side on the page; images of at least this side are shown as they are."""

WIDTH = 360
"""Pixels of a row of images, so that it fits a phone."""

GAP = 4


@dataclass(frozen=True)
class Exhibit:
    """A method's images and their difference to full precision as PNG, with its name and value."""

    name: str
    value: str
    samples: bytes
    difference: bytes | None


def showcase_html(contest: Contest, results: Path) -> Markup:
    """The images of full precision and of every method, from the least damage to the most; empty without samples."""
    if shows_clips(contest.block):
        return Markup("")
    full = next((row for row in contest.block.rows if is_full_precision(row) and is_measured(row)), None)
    reference = images_of(results, full) if full is not None else "none"
    known = reference if not isinstance(reference, str) else None
    exhibits = [exhibit for row in ((full,) if full else ()) if (exhibit := _exhibit(results, row, None))]
    exhibits += [exhibit for row in contest.rows if (exhibit := _exhibit(results, row, known))]
    if not exhibits:
        return Markup("")
    return template_markup(
        "showcase.html.j2", bits=contest.bits, exhibits=exhibits, uri=data_uri, amplification=AMPLIFICATION
    )


def _exhibit(results: Path, row: Row, full: tuple[Images, Labels] | None) -> Exhibit | None:
    samples = images_of(results, row)
    if isinstance(samples, str):
        return None
    images, labels = samples
    tile = max(images.shape[-1], ENLARGED)
    count = max(WIDTH // (tile + GAP), 1)
    paired = full is not None and full[0].shape == images.shape and np.array_equal(full[1], labels)
    return Exhibit(
        name="Full precision" if is_full_precision(row) else short_name(row),
        value="" if is_full_precision(row) else value_text(row),
        samples=png(strip_image(images[:count], tile=tile, gap=GAP)),
        difference=png(strip_image(difference(images[:count], full[0][:count]), tile=tile, gap=GAP))
        if paired and full is not None
        else None,
    )
