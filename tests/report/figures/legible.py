"""Is all text of a figure inside it, and does none lie on another? Asked of the renderer, not of the layout."""

from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

TOLERANCE = 0.75
"""Pixels that boxes may share, since they are rounded outwards."""


@contextmanager
def drawn_texts() -> Iterator[list[tuple[str, Bbox]]]:
    """(text, box in pixels) of every text that is drawn inside this context."""
    found: dict[int, tuple[str, Bbox]] = {}
    original = Text.draw

    def draw(self: Text, renderer: object) -> None:
        original(self, renderer)
        if self.get_visible() and self.get_text().strip():
            found[id(self)] = (self.get_text(), Text.get_window_extent(self, renderer))

    texts: list[tuple[str, Bbox]] = []
    Text.draw = draw  # type: ignore[method-assign, assignment]
    try:
        yield texts
    finally:
        Text.draw = original  # type: ignore[method-assign]
        texts += found.values()


def problems(figure: Figure) -> list[str]:
    """Texts that are cut or that overlap, in words; none for a legible figure."""
    figure.canvas.draw()  # the layout's own drawing
    with drawn_texts() as texts:
        figure.canvas.draw()
    page, found = figure.bbox, []
    for number, (text, box) in enumerate(texts):
        if box.x0 < page.x0 or box.y0 < page.y0 or box.x1 > page.x1 or box.y1 > page.y1:
            found.append(f"cut: {text!r}")
        found += [f"{text!r} lies on {other!r}" for other, rest in texts[:number] if overlap(box, rest)]
    return found


def overlap(a: Bbox, b: Bbox) -> bool:
    """Whether two boxes share more than rounding."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return wide > TOLERANCE and high > TOLERANCE
