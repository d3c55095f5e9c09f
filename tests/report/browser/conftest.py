"""A made-up finished run of every kind of table, with a figure, and a browser for the tests that open its report."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser.browser import Browser, program
from tests.report.conftest import all_keys, damage, make_wide_profile, record, save_samples, write_record

FIGURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="300"><rect width="1200" height="300"/></svg>'


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/mini with its profile.json, every run and a list of figures; one run is missing."""
    results, profile = tmp_path_factory.mktemp("example") / "results" / "mini", make_wide_profile()
    for key in all_keys(profile)[:-1]:
        write_record(results, key, record(key, profile))
        save_samples(key.folder(results), damage(key))
    (results / "profile.json").write_text(json.dumps(profile), encoding="utf-8")
    folder = results / "figures"
    folder.mkdir()
    (folder / "a.svg").write_text(FIGURE, encoding="utf-8")
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    named = {"name": "a", "title": "A figure", "caption": "A wide one.", "group": "Figures", "alt": "A rectangle."}
    listed = [named | {"file_svg": "a.svg", "file_png": "a.png"}]
    (folder / "figures.json").write_text(json.dumps(listed), encoding="utf-8")
    return results


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = program()
    if executable is None:
        pytest.skip("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    opened = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
