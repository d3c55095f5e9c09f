"""Pictures about a mini DiT's quality: a gallery of samples, and the distances to the nearest training images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qdit.core.files import atomic_path
from qdit.core.pixels import to_uint8
from qdit.mini.data.labelled import LabelledImages

SHOWN = 4
"""Images of each class in a picture."""
GAP = 4
"""White lines between held-out images and samples, in pixels of an image."""


def of_each_class(pictures: LabelledImages) -> np.ndarray:
    """Put the first `SHOWN` images of each class into one picture. A column is a class; grey lines separate images."""
    columns = []
    for label in range(10):
        images = to_uint8(pictures.images[pictures.labels == label][:SHOWN, 0]).numpy()
        framed = np.pad(images, ((0, 0), (0, 1), (0, 1)), constant_values=96)
        columns.append(framed.reshape(-1, framed.shape[-1]))
    return np.concatenate(columns, axis=1)


def draw_gallery(held_out: LabelledImages, samples: LabelledImages, path: Path, *, enlarged: int = 3) -> None:
    """Write a PNG with held-out images above and samples of a mini DiT below. A pixel is `enlarged` times as wide."""
    upper, lower = of_each_class(held_out), of_each_class(samples)
    gap = np.full((GAP, upper.shape[-1]), 255, np.uint8)
    picture = np.concatenate([upper, gap, lower]).repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="png", optimize=True)


def draw_memorising(figures: Mapping[str, Any], path: Path, *, pixels: int, noun: str) -> None:
    """Draw the cumulative distribution of the distances to the nearest training image, as SVG.

    `figures` is the result of `memorising` in quality.py. Equal data give equal bytes.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "qdit", "font.size": 10}):
        drawing, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
        for who, label, style in (
            ("samples", "samples of the mini DiT", "-"),
            ("held_out", f"held-out {noun}s", "--"),
        ):
            axes.plot(figures[f"{who}_to_nearest_training_image"], figures["quantiles"], style, label=label)
        axes.set(
            xlabel=f"distance to the nearest training {noun} ({pixels} pixels in [−1, 1])",
            ylabel="% of images nearer than that",
            xlim=(0, None),
            ylim=(0, 100),
        )
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="svg", metadata={"Date": None})
        pyplot.close(drawing)
