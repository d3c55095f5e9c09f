"""The report as a reader meets it: opened from disk in headless Chromium, at the width of a desktop and of a phone."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdit.report.pages.run_report import build_index
from tests.report.browser.browser import Browser

pytestmark = pytest.mark.slow

DESKTOP, PHONE = 1280, 390
NAMES = ("chromium", "chromium-browser", "google-chrome")
OUTSIDE = """
(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const parent = element.parentElement.closest(".scroll, nav");
    if (parent || element.closest(".unseen, .skip, svg *")) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1))
      found.push(`${element.tagName} ${element.className} ${Math.round(box.left)} to ${Math.round(box.right)}`);
  }
  return found;
})()
"""
UNFOLD = "for (const folded of document.querySelectorAll('details')) folded.open = true"
HEADING = "document.querySelector('#table-table2 th[data-label^=\"FD-FP\"]')"
FIRST_BODY = """
[...document.querySelector('#table-table2 tbody').rows].filter((row) => !row.classList.contains('block')).map(
  (row) => row.cells[Number(%s.dataset.sort)].textContent.replace('≈', '').trim())
"""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory, example: Path) -> Path:
    """The report of a finished run, if CI names one in QDIT_REPORT, else of the made-up one."""
    if given := os.environ.get("QDIT_REPORT"):
        return Path(given)
    profile = json.loads((example / "profile.json").read_text(encoding="utf-8"))
    return build_index(profile, example, tmp_path_factory.mktemp("report") / "index.html")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_it_opens_without_errors_and_nothing_leaves_the_page(
    browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    picture = browser.screenshot(tmp_path / f"{width}{'-dark' if dark else ''}.png")
    assert picture.stat().st_size > 20_000
    for script in ("0", UNFOLD):
        browser.run(script)
        assert browser.run("document.scrollingElement.scrollWidth <= innerWidth")
        assert browser.run(OUTSIDE) == []
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_face_stays_visible(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    for place in (0, 1, 2):
        browser.run(f"window.scrollTo(0, document.body.scrollHeight * {place} / 2)")
        box = browser.run("document.querySelector('header .face').getBoundingClientRect().toJSON()")
        assert box["top"] >= 0 and box["bottom"] < 100 and box["right"] <= width


def test_tables_of_a_desktop_need_no_scrolling(browser: Browser, page: Path) -> None:
    browser.open(page, width=DESKTOP)
    browser.run(UNFOLD)
    wide = browser.run(
        "[...document.querySelectorAll('article > .scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1)"
        ".map((box) => `${box.getAttribute('aria-label')}: ${box.scrollWidth} of ${box.clientWidth}`)"
    )
    # Table 3 has sixteen dimensions, each ours and the paper's: it scrolls in its box.
    assert [label for label in wide if "Table" in label and "Table 3" not in label] == []


def test_a_heading_sorts_and_says_so(browser: Browser, page: Path) -> None:
    browser.open(page, width=DESKTOP)
    cells = FIRST_BODY % HEADING

    def numbers() -> list[float]:
        shown = browser.run(cells)
        assert "–" not in shown[1:-1]  # full precision may have none: it stands first, and last in any order
        return [float(text) for text in shown if text != "–"]

    before = numbers()
    assert before != sorted(before)
    browser.run(f"{HEADING}.querySelector('button').focus()")
    browser.press("Enter", 13)  # by keyboard
    assert browser.run(f"{HEADING}.getAttribute('aria-sort')") == "ascending"
    assert numbers() == sorted(before)
    assert browser.run("getComputedStyle(document.querySelector('#table-table2 .again span')).visibility") == "visible"
    browser.run(f"{HEADING}.querySelector('button').click()")
    assert browser.run(f"{HEADING}.getAttribute('aria-sort')") == "descending"
    assert numbers() == sorted(before, reverse=True)
    browser.run(f"{HEADING}.querySelector('button').click()")
    assert browser.run(f"{HEADING}.getAttribute('aria-sort')") == "none" and numbers() == before
    assert browser.errors == []


def test_the_theme_follows_the_system_until_the_reader_chooses(browser: Browser, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, width=DESKTOP, dark=True)
    browser.run("localStorage.clear()")
    browser.open(page, width=DESKTOP, dark=False)
    light = browser.run(ground)
    browser.open(page, width=DESKTOP, dark=True)
    dark = browser.run(ground)
    assert light != dark
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) == light and "dark" in browser.run("document.getElementById('theme').ariaLabel")
    browser.open(page, width=DESKTOP, dark=True)
    assert browser.run(ground) == light, "the choice is kept"
    browser.run("localStorage.clear()")
    assert browser.errors == []


def test_small_numbers_change_from_full_precision_to_the_paper(browser: Browser, page: Path) -> None:
    browser.open(page, width=DESKTOP)
    shown = "[...document.querySelectorAll('small.%s')].some((small) => small.offsetParent)"
    assert browser.run(shown % "change") and not browser.run(shown % "gap")
    browser.run("document.querySelector('input[value=gap]').click()")
    assert browser.run(shown % "gap") and not browser.run(shown % "change")
    browser.run("document.querySelector('input[value=none]').click()")
    assert not browser.run(shown % "gap") and not browser.run(shown % "change")


def test_a_link_to_a_claim_opens_what_it_is_folded_in(browser: Browser, page: Path) -> None:
    for fragment in ("", "#lowest-fid-w4a8"):
        browser.open(page, width=DESKTOP, fragment=fragment)
        if not fragment:
            assert not browser.run("document.getElementById('claims').open")
            browser.run("document.querySelector('.glance a[href=\"#lowest-fid-w4a8\"]').click()")
            browser.run("new Promise((done) => setTimeout(done, 100))")
        assert browser.run("document.getElementById('claims').open")
        top = browser.run("document.getElementById('lowest-fid-w4a8').getBoundingClientRect().top")
        assert 60 < top < 400, "below the bar, not under it"


def test_paper_shows_everything_in_light_colours(browser: Browser, page: Path) -> None:
    browser.open(page, width=DESKTOP, dark=True)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('header.top nav')).display") == "none"
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") > 3
    browser.call("Emulation.setEmulatedMedia", media="")
