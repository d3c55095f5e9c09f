"""Read the losses of learned rounding from a checkpoint's log, and draw them as SVG for a page.

The docstring of `qdit.report.render.figure` says why we write SVG ourselves. Each line also has a tooltip.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

LEFT, PLOT, TOP, BOTTOM = 44, 204, 8, 34
"""Pixels: margin left of the axis (decades), width of the axis, margins above and below."""

LEAD, NAMES, CHARACTER = 15, 81, 6.7
"""Pixels: from the axis to the names of the lines, the least that names get, and a character of a name."""

HEIGHT = 150
"""Pixels of the axis; more where the names of the lines need them."""

LINE = 13
"""Pixels between two names."""

HUES = (205, 345)
"""Hue (degrees) of the first and the last line; the lines between them follow the order of the model."""


@dataclass(frozen=True)
class Unit:
    """The losses of one reconstructed block or layer: `points` are (iteration, mean loss without the regularizer)."""

    name: str
    points: tuple[tuple[float, float], ...]
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Reconstruction:
    """The log of learned rounding of one run: the losses of each unit (block or layer), iterations and batch size."""

    iterations: int
    batch: int
    units: tuple[Unit, ...]
    matmul: str = "float32"

    @property
    def losses(self) -> list[float]:
        """All positive finite losses, which a logarithmic axis can show."""
        return [loss for unit in self.units for _, loss in unit.points]


def reconstruction_of(log: Mapping[str, Any]) -> Reconstruction | None:
    """Read the part about learned rounding from a checkpoint's log; None if it is missing or damaged."""
    try:
        entry = log["reconstruction"]
        units = tuple(map(_unit, entry["units"]))
        return Reconstruction(int(entry["iterations"]), int(entry["batch"]), units, str(entry.get("matmul", "float32")))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _unit(entry: Mapping[str, Any]) -> Unit:
    points = tuple((float(iteration), float(loss)) for iteration, loss in entry["points"])
    drawn = tuple(point for point in points if all(map(math.isfinite, point)) and point[1] > 0)
    return Unit(str(entry["name"]), drawn, _loss(entry.get("before")), _loss(entry.get("after")))


def _loss(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class Axes:
    """The axes of all panels of a table block: iterations from 0 to `last`, losses from 10^`low` to 10^`high`.

    `height` and `names` are pixels: of the axis, and of the longest name beside it.
    """

    last: float
    low: int
    high: int
    height: float
    names: float = NAMES

    def x(self, iteration: float) -> float:
        """Return the horizontal position of an iteration, in pixels."""
        return LEFT + iteration / self.last * PLOT

    def y(self, loss: float) -> float:
        """Return the vertical position of a loss, in pixels."""
        return TOP + (self.high - math.log10(loss)) / (self.high - self.low) * self.height


def axes(logs: list[Reconstruction]) -> Axes | None:
    """Return axes that contain all points of several runs, or None if there is nothing to draw."""
    losses = [loss for log in logs for loss in log.losses]
    if not losses:
        return None
    low, high = math.floor(math.log10(min(losses))), math.ceil(math.log10(max(losses)))
    last = max(iteration for log in logs for unit in log.units for iteration, _ in unit.points)
    drawn = [[unit.name for unit in log.units if unit.points] for log in logs]
    names = max(NAMES, *(CHARACTER * len(name) for names_of_run in drawn for name in names_of_run))
    return Axes(max(last, 1), low, max(high, low + 1), max(HEIGHT, LINE * max(map(len, drawn))), names)


def panel(log: Reconstruction, shared: Axes, title: str) -> str:
    """Draw the losses of one run as SVG: one line for each unit (block or layer), with its name at the end."""
    bottom, right = TOP + shared.height, LEFT + PLOT
    width = f"{right + LEAD + shared.names:.0f}"
    size = f'viewBox="0 0 {width} {bottom + BOTTOM:.0f}" width="{width}" height="{bottom + BOTTOM:.0f}"'
    parts = [f'<svg {size} role="img" aria-label={quoteattr(f"Reconstruction loss against iterations: {title}")}>']
    step = math.ceil((shared.high - shared.low) / 5)
    for decade in range(shared.low, shared.high + 1, step):
        y = shared.y(10.0**decade)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="name tick" x="{LEFT - 6}" y="{y + 4:.1f}">{_decade(decade)}</text>')
    for iteration in (0.0, shared.last / 2, shared.last):
        parts.append(f'<text class="tick" x="{shared.x(iteration):.1f}" y="{bottom + 15:.1f}">{iteration:g}</text>')
    middle = LEFT + PLOT / 2
    parts.append(f'<text class="tick" x="{middle:.1f}" y="{bottom + 29:.1f}">iterations</text>')
    return "".join([*parts, *_curves(log, shared), "</svg>"])


def _curves(log: Reconstruction, shared: Axes) -> list[str]:
    drawn = [unit for unit in log.units if unit.points]
    heights = spread([shared.y(unit.points[-1][1]) for unit in drawn], TOP, TOP + shared.height)
    parts = []
    for number, (unit, height) in enumerate(zip(drawn, heights, strict=True)):
        hue = HUES[0] + (HUES[1] - HUES[0]) * number / max(len(drawn) - 1, 1)
        path = " ".join(f"{shared.x(iteration):.1f},{shared.y(loss):.1f}" for iteration, loss in unit.points)
        end = shared.x(unit.points[-1][0]), shared.y(unit.points[-1][1])
        parts.append(f'<g class="curve" style="--hue:{hue:.0f}"><title>{escape(_tooltip(unit))}</title>')
        if len(unit.points) == 1:
            parts.append(f'<circle cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="2.5"/>')
        parts.append(f'<polyline points="{path}"/>')
        lead = f'x1="{end[0]:.1f}" y1="{end[1]:.1f}" x2="{LEFT + PLOT + LEAD - 3}" y2="{height:.1f}"'
        parts.append(f'<line class="lead" {lead}/>')
        parts.append(f'<text x="{LEFT + PLOT + LEAD}" y="{height + 4:.1f}">{escape(unit.name)}</text></g>')
    return parts


def _decade(exponent: int) -> str:
    """`0.01`, or `1e-4` where that is shorter."""
    return f"{10.0**exponent:g}" if abs(exponent) <= 3 else f"1e{exponent}"


def spread(wanted: list[float], low: float, high: float) -> list[float]:
    """Move heights apart until they are one text line apart, near the wanted heights and if possible in [low, high]."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    placed = [0.0] * len(wanted)
    ceiling = low
    for number in order:
        placed[number] = max(wanted[number], ceiling)
        ceiling = placed[number] + LINE
    floor = high
    for number in reversed(order):
        placed[number] = min(placed[number], floor)
        floor = placed[number] - LINE
    return placed


def _tooltip(unit: Unit) -> str:
    if unit.before is None or unit.after is None:
        return unit.name
    return f"{unit.name}: {unit.before:.3g} before, {unit.after:.3g} after"
