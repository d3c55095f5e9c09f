"""Dot plots as a reader sees them: no two texts overlap, all fit into the picture, and marks keep off the names."""

from pathlib import Path

import pytest

from qdit.report.render.figure import NARROW, PANEL, WIDE, Layout
from qdit.report.render.page_files import style_sheet
from tests.report.browser.browser import Browser
from tests.report.browser.test_speed_figure import overlapping
from tests.report.test_dot_plot import BITS, NAMES, block_of, drawn

pytestmark = pytest.mark.slow

TEXTS = """
(() => [...document.querySelectorAll("svg :is(text, tspan)")].filter((text) => !text.querySelector("tspan"))
  .map((text) => {
    const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
    return {
      text: text.textContent, look: text.closest("text").getAttribute("class"),
      left: box.left, right: box.right, top: box.top, bottom: box.bottom,
      outside: box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1,
    };
  }))()
"""
MARKS = """
[...document.querySelectorAll("svg .dot")].map((mark) => {
  const box = mark.getBoundingClientRect(), style = getComputedStyle(mark);
  return {left: box.left, width: box.width, height: box.height, fill: style.fill};
})
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize(("layout", "width"), [(WIDE, 1280), (PANEL, 1280), (NARROW, 390)])
def test_no_two_texts_overlap_and_marks_are_drawn(
    browser: Browser, tmp_path: Path, layout: Layout, width: int, printed: bool, dark: bool
) -> None:
    picture = drawn(block_of(printed=printed), layout)
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page = tmp_path / "page.html"
    page.write_text(f'{head}<style>{style_sheet("board.css")}</style><body class="page">{picture}', encoding="utf-8")
    browser.open(page, width=width, dark=dark)
    texts, marks = browser.run(TEXTS), browser.run(MARKS)
    assert overlapping(texts) == []
    assert [text["text"] for text in texts if text["outside"]] == []
    assert len(marks) == len(BITS) * (len(NAMES) + 1)
    assert len({mark["fill"] for mark in marks}) == 6 and "none" not in {mark["fill"] for mark in marks}
    assert all(6 < mark["width"] < 18 and 6 < mark["height"] < 18 for mark in marks)
    names = max(text["right"] for text in texts if text["look"] == "name")
    assert min(mark["left"] for mark in marks) > names, "a mark lies on a name"
    assert browser.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert browser.errors == []
