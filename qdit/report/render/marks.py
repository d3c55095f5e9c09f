"""Tell the series of a dot plot apart by colour and shape, and break long names into lines.

Colour alone does not separate many series, least of all on paper or for colour-blind readers. A name that is cut can
look like another name, so no name is cut.
"""

import math
import textwrap

COLOURS = 6
"""Number of colours in the style sheet: the CSS classes `bits0` to `bits5` and the variables `--mark0` to `--mark5`."""

Points = tuple[tuple[float, float], ...]


def _cross(arm: float, half: float) -> Points:
    """The corners of an upright cross: length of an arm from the centre, and half of its width."""
    corners = ((-half, -arm), (half, -arm), (half, -half))
    turns = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
    return tuple((a * x + b * y, c * x + d * y) for a, b, c, d in turns for x, y in corners)


def _turned(points: Points, degrees: float) -> Points:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return tuple((cosine * x - sine * y, sine * x + cosine * y) for x, y in points)


SHAPES: dict[str, Points] = {
    "circle": (),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0.0, -1.2), (1.15, 0.8), (-1.15, 0.8)),
    "diamond": ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)),
    "triangle down": ((0.0, 1.2), (-1.15, -0.8), (1.15, -0.8)),
    "plus": _cross(1.2, 0.42),
    "cross": _turned(_cross(1.2, 0.42), 45),
}
"""Name → corners around the centre, in radii; a circle has none.

The numbers of colours and of shapes have no common factor. So the first 42 series differ in colour or shape, and two
neighbours differ in both.
"""


def colour_class(series: int) -> str:
    """Return the CSS class with the colour of a series. Series 0 has the accent colour of the page."""
    return f"bits{series % COLOURS}"


def mark(series: int, x: float, y: float, radius: float) -> str:
    """Draw the mark of a series as SVG, with its centre at (x, y); `radius` in pixels is the size of the circle."""
    outline = outline_of(series, radius)
    return f'<path class="dot {colour_class(series)}" transform="translate({x:.1f},{y:.1f})" d="{outline}"/>'


def outline_of(series: int, radius: float) -> str:
    """Return the outline of a series' mark around the origin, as an SVG path."""
    points = list(SHAPES.values())[series % len(SHAPES)]
    if not points:
        arc = f"a{radius:g} {radius:g} 0 1 0 "
        return f"M{-radius:g} 0{arc}{2 * radius:g} 0{arc}{-2 * radius:g} 0z"
    return "M" + "L".join(f"{radius * x:.1f} {radius * y:.1f}" for x, y in points) + "z"


def name_lines(name: str, characters: int) -> tuple[str, ...]:
    """Break a name into lines of at most `characters`, at spaces and hyphens, and only then inside a word.

    Nothing is left out, so different names stay different.
    """
    return tuple(textwrap.wrap(name, max(characters, 1))) or (name,)
