"""The figure of accuracy against speed as a reader sees it: no two texts overlap, all fit, and they can be read."""

import random
from pathlib import Path

import pytest

from qdit.report.render.page_files import style_sheet
from qdit.report.render.speedup_figure import Panel, Point, speedup_figure
from tests.report.browser.browser import Browser

pytestmark = pytest.mark.slow

NAMES = (
    "RTN, groups of 16, dynamic",
    "SVDQuant, per token",
    "Hadamard rotation",
    "Q-DiT, group size 16",
    "NVFP4",
    "RTN",
)
TEXTS = """
(() => [...document.querySelectorAll("figure.cover text")]
  .filter((text) => text.getClientRects().length && getComputedStyle(text).visibility !== "hidden")
  .map((text) => {
    const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
    return {
      text: text.textContent.trim(), left: box.left, right: box.right, top: box.top, bottom: box.bottom,
      outside: box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1,
      letters: parseFloat(getComputedStyle(text).fontSize) * frame.width / text.closest("svg").viewBox.baseVal.width,
    };
  }))()
"""


def panel(title: str, count: int, seed: int) -> Panel:
    """Points that crowd: many have one speed or nearly one damage."""
    draw = random.Random(seed)
    points = []
    for number in range(count):
        damage = 10 ** draw.choice([-2.3, -2.29, -1.0, draw.uniform(-3, 1)])
        speed = draw.choice([1.4, 2.2, 2.2, draw.uniform(0.8, 3)])
        name = f"{NAMES[number % len(NAMES)]}{'' if number < len(NAMES) else f' {number}'}"
        points.append(Point(name, speed, damage, damage / 2, damage * 2, "#0072B2", number % 2 == 0))
    return Panel(title, tuple(points), 1.8)


def overlapping(texts: list[dict[str, float]]) -> list[tuple[float, float]]:
    """Pairs of texts whose boxes share more than the hair that line spacing leaves."""
    return [
        (a["text"], b["text"])
        for number, a in enumerate(texts)
        for b in texts[:number]
        if min(a["right"], b["right"]) - max(a["left"], b["left"]) > 0.5
        and min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) > 1.5
    ]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("counts", [(20,), (3,), (18, 15)])
def test_no_two_texts_overlap(browser: Browser, tmp_path: Path, width: int, counts: tuple[int, ...]) -> None:
    figure = speedup_figure([panel(f"W4A4, device {n}", count, n) for n, count in enumerate(counts)], "About it.")
    assert figure is not None
    drawings = {"wide": figure.svg, "narrow": figure.narrow_svg}
    body = "".join(f'<div class="{name}">{svg}</div>' for name, svg in drawings.items())
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page = tmp_path / "page.html"
    style = style_sheet("board.css")
    page.write_text(f'{head}<style>{style}</style><body class="page"><figure class="cover">{body}</figure>')
    browser.open(page, width=width)
    texts = browser.run(TEXTS)
    assert sum(text["text"] == "full precision" for text in texts) == len(counts)
    assert {point.name for n, count in enumerate(counts) for point in panel("", count, n).points} <= {
        text["text"] for text in texts
    }
    assert overlapping(texts) == []
    assert [text["text"] for text in texts if text["outside"]] == []
    assert min(text["letters"] for text in texts) >= 8.5
    assert browser.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert browser.errors == []
