"""The site: it builds in strict mode, every link and picture resolves, and nothing on it comes from elsewhere."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.commands import DOCUMENTS, ROOT, links_of, text_of


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_resolve(document: str) -> None:
    for link in links_of(document):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), f"{document}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{document}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target.relative_to(ROOT).as_posix()), f"{document}: {link}"


def anchors_of(document: str) -> set[str]:
    """Anchors of a document's headings, as mkdocs and GitHub make them for plain headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s]+", "-", heading) for heading in plain}


def test_every_list_begins_after_an_empty_line() -> None:
    """GitHub shows a list right after a sentence, the site's Markdown makes it part of the sentence."""
    for document in DOCUMENTS:
        lines = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL).splitlines()
        for before, line in pairwise(lines):
            if re.match(r"(?:- |\* |\d+\. )", line):
                item = re.match(r"\s*(?:- |\* |\d+\. )|\s+\S|$", before)
                assert item, f"{document}: {before!r} and then {line!r}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode."""
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_and_has_every_page(site: Path) -> None:
    pages = {path.stem for path in site.glob("*.html")}
    assert {Path(document).stem for document in DOCUMENTS if document.startswith("docs/")} <= pages


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = r"""(?:src|href)=["']?(?:https?:)?//[^"'\s>]+"""
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        outside = [
            link for link in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text) if re.search(fetched, link)
        ]
        assert outside == [], page.name
    for sheet in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name
