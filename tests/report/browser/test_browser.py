"""The report as a reader meets it: opened from disk in headless Chromium, at the width of a desktop and of a phone."""

import json
import os
from pathlib import Path

import pytest

from qdit.report.claims.report import load_report
from qdit.report.claims.written import write_report
from qdit.report.pages.build import build_table
from qdit.report.pages.claims_page import claims_markdown, claims_page
from qdit.report.pages.leaderboard import build_leaderboard
from qdit.report.pages.run_report import build_index
from tests.report.browser.browser import Browser

pytestmark = pytest.mark.slow

DESKTOP, PHONE = 1280, 390
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
CONTRAST = """
(() => {
  const channels = (colour) => {
    const found = (colour.match(/[\\d.]+/g) || []).map(Number);
    return colour.startsWith("color(srgb") ? found.map((c, n) => n < 3 ? 255 * c : c) : found;
  };
  const linear = (c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const paint = channels(getComputedStyle(at).backgroundColor);
      if (paint.length === 3 || paint[3] === 1) return paint;
    }
    return [255, 255, 255];
  };
  const found = [];
  const words = "p, b, li, td, th, a, small, span, dd, dt, h1, h2, h3, summary, text";
  for (const element of document.body.querySelectorAll(words)) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    if (!element.getClientRects().length || getComputedStyle(element).visibility === "hidden") continue;
    const style = getComputedStyle(element), ink = channels(element.matches("text") ? style.fill : style.color);
    if (element.matches("text") && !element.closest(".plot, .panels")) continue;  // it may stand on a drawn ground
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    const name = `${element.tagName} ${element.getAttribute("class")}`;
    if (ratio < 4.5) found.push(`${name}: ${ratio.toFixed(2)}, ${element.textContent.trim().slice(0, 30)}`);
  }
  return found.slice(0, 8);
})()
"""
"""Texts whose contrast to their ground is below 4.5 to 1."""

STAYS = """
(() => {
  const box = document.querySelector(".board .scroll"), head = box.querySelector("thead th.name");
  box.scrollTop = 300; box.scrollLeft = 200;
  const below = (cell) => cell.getBoundingClientRect().top > box.getBoundingClientRect().top + 150;
  const row = [...box.querySelectorAll("tbody th.name")].find(below);
  const [outer, above, beside] = [box, head, row].map((element) => element.getBoundingClientRect());
  return {head: above.top - outer.top, name: beside.left - outer.left, across: box.scrollLeft, down: box.scrollTop};
})()
"""
"""Scroll the table in both directions: how far its header and its method column have moved from the box."""

UNFOLD = "for (const folded of document.querySelectorAll('details')) folded.open = true"
HEADING = "document.querySelector('#table-table2 th[data-label^=\"FD-FP\"]')"
FIRST_BODY = """
[...document.querySelector('#table-table2 tbody').rows].filter((row) => !row.classList.contains('block')).map(
  (row) => [...row.cells[Number(%s.dataset.sort)].childNodes].filter((node) => node.nodeName !== 'SMALL')
    .map((node) => node.textContent).join('').replace('≈', '').trim())
"""


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


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, example: Path, page: Path) -> list[Path]:
    """Every page of the run: those that lie beside the named report, or all pages of the made-up run."""
    if os.environ.get("QDIT_REPORT"):
        return [page, *sorted(page.parent.glob("tables/*.html")), *sorted(page.parent.glob("[cl]*.html"))]
    folder = tmp_path_factory.mktemp("pages")
    profile = json.loads((example / "profile.json").read_text(encoding="utf-8"))
    for name in profile["tables"]:
        build_table(profile, name, example, folder / name)
    build_leaderboard(profile, example)
    report = load_report(profile, example)
    write_report(report, claims_page(report), claims_markdown(report), folder / "claims.html")
    return [page, *sorted(folder.glob("*.html")), example / "leaderboard.html"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_page_fits_loads_nothing_and_can_be_read(
    browser: Browser, pages: list[Path], width: int, dark: bool
) -> None:
    wrong = {}
    for path in pages:
        browser.open(path, width=width, dark=dark)
        outside, pale = browser.run(OUTSIDE), browser.run(CONTRAST)
        wide = browser.run("document.scrollingElement.scrollWidth - innerWidth")
        if outside or pale or wide > 0 or browser.errors or browser.requests != [path.resolve().as_uri()]:
            wrong[path.name] = (outside, pale, wide, browser.errors, browser.requests)
    assert wrong == {}


def test_the_first_screen_answers_and_shows_the_picture(browser: Browser, pages: list[Path]) -> None:
    """1,280 × 800: the sentence, and the whole picture where rows can be compared; so is a table soon below it."""
    for path in pages:
        browser.open(path, width=DESKTOP, height=800)
        places = browser.run(
            "['.answer', '.plot svg', '.board'].map((name) => document.querySelector(name)?.getBoundingClientRect())"
            ".map((box) => box && [box.top, box.bottom])"
        )
        answer, picture, board = places
        assert answer is not None and answer[1] < 400, path.name
        if picture is not None and path.name in ("index.html", "table2.html"):
            assert picture[1] <= 800, f"{path.name}: the picture ends at {picture[1]}"
        if path.name == "table2.html":
            assert board is not None and board[0] < 1700, f"the numbers begin at {board[0]}"
            assert browser.run("document.querySelector('.board .scroll').clientHeight") <= 740
            assert browser.run("document.documentElement.scrollHeight") < 5000


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_header_and_the_method_stay_when_a_table_scrolls(browser: Browser, pages: list[Path], width: int) -> None:
    path = next(path for path in pages if path.name == "table2.html")
    browser.open(path, width=width)
    browser.run("document.querySelector('input.more').click()")
    moved = browser.run(STAYS)
    assert moved["down"] > 20 and abs(moved["head"]) <= 1  # a short table has little to scroll
    assert moved["across"] == 0 or abs(moved["name"]) <= 1
    assert width == DESKTOP or moved["across"] > 0


def test_more_columns_need_no_script_and_the_filter_leaves_what_matches(browser: Browser, pages: list[Path]) -> None:
    browser.open(next(path for path in pages if path.name == "leaderboard.html"), width=DESKTOP)
    shown = "[...document.querySelectorAll('.board tbody tr:not(.block)')].filter((row) => row.offsetParent).length"
    everything = browser.run(shown)
    browser.run(
        "(() => { const field = document.querySelector('input.filter'); field.value = 'q-dit w4a8';"
        " field.dispatchEvent(new Event('input')); })()"
    )
    left = browser.run(shown)
    names = browser.run(
        "[...document.querySelectorAll('.board tbody tr:not(.block)')].filter((row) => row.offsetParent)"
        ".map((row) => row.textContent)"
    )
    assert 0 < left < everything and all("Q-DiT" in name and "W4A8" in name for name in names)
    extra = "getComputedStyle(document.querySelector('td.extra')).display"
    assert browser.run(extra) == "none"
    browser.run("document.querySelector('input.more').click()")
    assert browser.run(extra) == "table-cell" and browser.errors == []


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
