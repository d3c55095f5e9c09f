"""Dot plots: no two series look alike, no name is cut, and nothing lies on the columns beside the axis."""

import re
from itertools import combinations, pairwise, product
from typing import Any

import pytest

from qdit.core.metrics import METRICS
from qdit.report.data.rows import Block
from qdit.report.figures.style import looks, method_looks
from qdit.report.render.allocation_figures import look_of_search
from qdit.report.render.figure import NARROW, PANEL, RADIUS, WIDE, Layout, axis, dot_plot, frame_of, plot_of
from qdit.report.render.marks import COLOURS, SHAPES, colour_class, name_lines, outline_of
from qdit.report.render.page_files import style_sheet, template_text

LAYOUTS = [WIDE, NARROW, PANEL]
NAMES = (
    "Group size 16",
    "Group size 16, GPTQ",
    "RTN, groups of 16, dynamic",
    "RTN, groups of 16, static",
    "Q-DiT: Evolutionary search",
    "Q-DiT: Evolutionary searches of group sizes",
    "Hessian-based",
    "A_name_of_one_word_that_is_longer_than_every_column",
    "Q-DiT",
)
BITS = ((4, 8), (16, 8), (8, 8), (6, 8), (6, 6), (4, 4), (2, 2), (3, 8))


def block_of(*, printed: bool = False, names: tuple[str, ...] = NAMES) -> Block:
    """A block of made-up rows: every name at eight bit widths."""
    rows: list[dict[str, Any]] = []
    for (number, name), (weights, inputs) in product(enumerate(names), BITS):
        row: dict[str, Any] = {"weight_bits": weights, "activation_bits": inputs, "method": name, "key": name}
        row |= {"psnr_fp": 20.0 + weights + inputs - number, "short": f"W{weights}A{inputs} {name}"}
        row |= {"published_fid": float(number) if printed else None}
        rows.append(row)
    return Block("A block", "about", tuple(rows))


def drawn(block: Block, layout: Layout) -> str:
    shared = axis(block.rows)
    assert shared is not None
    return dot_plot(block, shared, layout)


def names_in(picture: str) -> list[tuple[str, ...]]:
    """Names of a picture from top to bottom, each as its lines of text."""
    texts = re.findall(r'<text class="name"[^>]*>(.*?)</text>', picture)
    return [tuple(re.findall(r"<tspan[^>]*>([^<]*)<", text) or [text]) for text in texts]


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_are_whole_different_and_as_wide_as_their_column(layout: Layout, printed: bool) -> None:
    picture = drawn(block_of(printed=printed), layout)
    shown = names_in(picture)
    assert len(shown) == len(set(shown)) == len(NAMES)
    letters = {re.sub(r"\s", "", name) for name in NAMES}
    assert {"".join(lines).replace(" ", "") for lines in shown} == letters, "a name has lost characters"
    assert max(len(line) for lines in shown for line in lines) <= (layout.names - 14) / 8
    baselines = [float(y) for y in re.findall(r'<(?:text class="name"|tspan) x="[^"]*" y="([\d.]+)"', picture)]
    assert baselines == sorted(baselines) and len(baselines) == sum(map(len, shown))
    assert min(b - a for a, b in pairwise(baselines)) >= 15, "two lines of text overlap"
    height = float(re.search(r'viewBox="0 0 \d+ ([\d.]+)"', picture)[1])  # type: ignore[index]
    assert baselines[-1] < height - 30, "the last name lies on the axis"


def test_short_names_stay_in_one_line() -> None:
    assert name_lines("RTN", 8) == ("RTN",) and name_lines("Group size 16, GPTQ", 12) == ("Group size", "16, GPTQ")
    assert name_lines("Hessian-based", 12) == ("Hessian-", "based") and name_lines("", 12) == ("",)
    picture = drawn(block_of(names=("RTN", "Q-DiT")), PANEL)
    assert "<tspan" not in picture and names_in(picture) == [("RTN",), ("Q-DiT",)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_two_series_of_a_plot_share_colour_and_shape(layout: Layout) -> None:
    picture = drawn(block_of(), layout)
    marks = re.findall(r'<path class="dot (bits\d+)" transform="[^"]*" d="([^"]+)"', picture)
    legend = [(colour_class(n), outline_of(n, RADIUS - 1)) for n in range(len(BITS))]
    assert marks[: len(BITS)] == legend and len(set(legend)) == len(BITS)
    series = [(colour_class(n), outline_of(n, RADIUS)) for n in range(len(BITS))]
    assert set(marks[len(BITS) :]) == set(series) and len(set(series)) == len(BITS)
    assert all(marks.count(look) == len(NAMES) for look in series)
    texts = re.findall(r'<text class="legend"[^>]*>([^<]+)<', picture)
    assert texts == ["W4A8", "W2A2", "W4A4", "W3A8", "W6A6", "W6A8", "W8A8", "W16A8"]


def test_forty_two_series_differ_in_colour_or_shape_and_neighbours_in_both() -> None:
    series = [(colour_class(n), outline_of(n, RADIUS)) for n in range(COLOURS * len(SHAPES))]
    assert len(set(series)) == len(series)
    assert len({outline_of(n, RADIUS) for n in range(len(SHAPES))}) == len(SHAPES)
    for (colour, shape), (other_colour, other_shape) in pairwise(series):
        assert colour != other_colour and shape != other_shape


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_legend_ends_before_the_columns_and_above_the_axis(layout: Layout, printed: bool) -> None:
    block = block_of(printed=printed)
    plot = plot_of(block)
    assert plot is not None and plot.printed == printed
    frame = frame_of(plot, layout)
    for contest, (x, y) in zip(plot.contests, frame.legend, strict=True):
        assert frame.left <= x and x + 16 + 8 * len(contest.bits) <= frame.right
        assert y <= frame.top - 10
    assert len(set(frame.legend)) == len(BITS)
    heading = METRICS["psnr_fp"].axis_title
    assert (heading in drawn(block, layout)) == (not printed or layout is not NARROW)


def colours(theme: str) -> dict[str, str]:
    """Name → value of the variables of a theme, in the order light, dark."""
    rules_of_theme = template_text("colours.css.j2").split("prefers-color-scheme: dark")[theme == "dark"]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", rules_of_theme.split("}")[0]))


def linear(colour: str) -> list[float]:
    """Red, green and blue of `#rgb` or `#rrggbb` as shares of the light that a screen gives (sRGB)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


def luminance(colour: str) -> float:
    red, green, blue = linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def lab(colour: str) -> tuple[float, float, float]:
    """CIELAB of a colour, with the white of sRGB (D65)."""
    red, green, blue = linear(colour)
    whole = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in whole)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_of_marks_differ_and_stand_out_from_the_ground(theme: str) -> None:
    """3 to 1 is what WCAG 2.1 asks of graphics (success criterion 1.4.11)."""
    known = colours(theme)
    marks = [known[f"mark{number}"] for number in range(COLOURS)]
    ground = luminance(known["ground"])
    for mark in marks:
        bright, dim = sorted((luminance(mark), ground), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3, mark
    for one, other in combinations(marks, 2):
        assert sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5 > 25, (one, other)
    style = style_sheet()
    assert all(f"svg .bits{number} {{ --mark: var(--mark{number}); }}" in style for number in range(COLOURS))
    assert f"--mark{COLOURS}" not in style


def test_the_two_themes_are_read_apart() -> None:
    assert colours("light")["ground"] == "#fff" and colours("dark")["ground"] == "#14171b"


def test_figures_of_matplotlib_repeat_no_look_either() -> None:
    """Labels that name no method, and the searches of one panel, many at once."""
    labels = [f"mine {number}" for number in range(20)]
    looks_by_label = looks([*method_looks(), *labels])
    assert len({(look.colour, look.marker) for look in looks_by_label.values()}) == len(looks_by_label)
    searches = [look_of_search(number) for number in range(20)]
    assert len({(look["color"], look["marker"]) for look in searches}) == len(searches)
