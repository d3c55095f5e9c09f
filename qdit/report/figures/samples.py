"""Draw Q-DiT's Figure 5: samples of every method from the same noise, side by side."""

from typing import TYPE_CHECKING

import numpy as np

from qdit.core.ranking import damage_of, ranking_metric, value_text
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import is_full_precision, is_measured
from qdit.report.data.standings import is_ranked
from qdit.report.figures.plan import Planned, hardest
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import Sketch
from qdit.report.render.sheets import AMPLIFICATION, Images, Labels, difference, images_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

COUNT = 10
"""Images of a row."""

LARGE_SIDE, LARGE_COUNT, LARGE_PIXELS = 64, 5, 96
"""Images whose side is larger than the first number (pixels) are fewer, and reduced."""

GAP = 1
"""Pixels between small images."""


def samples(source: Source, figure: Planned) -> Sketch:
    """Draw a row of images for each method, full precision first; beside them their difference to full precision."""
    assert figure.table is not None and figure.subject is not None
    bits = hardest(source.block(figure))
    rows = [
        row
        for row in source.table(figure.table).blocks[figure.block].rows
        if is_full_precision(row) or f"w{row['weight_bits']}a{row['activation_bits']}" == bits
    ]
    images_by_row: list[tuple[Row, tuple[Images, Labels] | str]] = [
        (row, images_of(source.results, row)) for row in rows
    ]
    known = [(row, images) for row, images in images_by_row if not isinstance(images, str)]
    if not known:
        raise Missing(f"no samples of {figure.subject.setting}, {figure.subject.form} form")
    full = next((images[0] for row, images in known if is_full_precision(row)), None)
    labels = known[0][1][1]
    count = COUNT if known[0][1][0].shape[-1] <= LARGE_SIDE else LARGE_COUNT
    count = min(count, *(len(images[0]) for _, images in known))

    def draw(drawing: "Drawing") -> None:
        left, right = drawing.subplots(1, 2, sharey=True)
        pictures = [images[0][:count] for _, images in known]
        left.imshow(tiled(pictures, count), extent=(0, count, len(known), 0), aspect="equal")
        left.set_title(f"{bits.upper()} samples; every column starts from the same noise")
        if full is not None:
            differences = [
                difference(picture, full[:count]) if picture.shape == full[:count].shape else picture * 0
                for picture in pictures
            ]
            right.imshow(tiled(differences, count), extent=(0, count, len(known), 0), aspect="equal")
        right.set_title(f"|difference to full precision| × {AMPLIFICATION}")
        for axes in (left, right):
            axes.set_xticks(np.arange(count) + 0.5, [str(label) for label in labels[:count]])
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.set_xlabel("given class")
        left.set_yticks(np.arange(len(known)) + 0.5, [words(row) for row, _ in known], fontsize=8.5)

    lost = [f"{row['short']}: {why}" for row, why in images_by_row if isinstance(why, str)]
    caption = (
        f"The first {count} images of each run at {bits.upper()}, all from the same noise and classes. Right: the"
        f" absolute difference to full precision, times {AMPLIFICATION}. {extremes([row for row, _ in known])}"
        + (f" Missing: {'; '.join(lost)}." if lost else "")
    )
    return Sketch(
        "Samples of all methods from the same noise (Q-DiT, Fig. 5)",
        f"{source.describe(figure.subject)} · {bits.upper()}",
        caption,
        "Rows of sampled images, one row per method, and beside them their differences to full precision.",
        (9.2, 0.75 + 0.37 * len(known) * 10 / max(count, 1)),
        draw,
    )


def words(row: Row) -> str:
    """Write the name of a row's method and its value in the ranking metric."""
    name = str(row["short"]).removeprefix(f"W{row['weight_bits']}A{row['activation_bits']} ")
    if is_full_precision(row):
        return "full precision"
    return f"{name}\n{ranking_metric().title} {value_text(row)}" if is_measured(row) and is_ranked(row) else name


def extremes(rows: list[Row]) -> str:
    """Write which methods have the least and the most damage."""
    measured = [row for row in rows if is_measured(row) and not is_full_precision(row) and is_ranked(row)]
    if len(measured) < 2:
        return ""
    near, far = (pick(measured, key=damage_of) for pick in (min, max))
    return (
        f"Nearest to full precision is {words(near).splitlines()[0]} ({ranking_metric().title} {value_text(near)}),"
        f" farthest {words(far).splitlines()[0]} ({value_text(far)})."
    )


def tiled(rows: list[Images], count: int) -> Images:
    """Join rows of n images (n, C, H, W) to one picture (height, width, 3), with white gaps between the images."""
    side = rows[0].shape[-1]
    step = max(side // LARGE_PIXELS, 1)
    cells = [[shown(image[:, ::step, ::step]) for image in row[:count]] for row in rows]
    return np.concatenate([np.concatenate(line, axis=1) for line in cells], axis=0)


def shown(image: Images) -> Images:
    """Turn an image (C, H, W) into a picture (H′, W′, 3) with a white margin.

    A small image is enlarged by a whole factor, so that pixel edges stay sharp.
    """
    pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    times = max(32 // image.shape[-1], 1)
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return np.pad(large, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
