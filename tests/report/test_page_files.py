"""Templates, style sheets and scripts: each is used, what they get is escaped, and no page is left in Python."""

import ast
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from qdit.core.repository import ROOT
from qdit.report.render.page_files import script, style_sheet, template_text

REPORT = ROOT / "qdit/report"
FILES = sorted(path for folder in ("templates", "static") for path in (REPORT / folder).iterdir())
SOURCES = sorted(REPORT.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_file_is_named_by_a_module_or_a_template(file: Path) -> None:
    users = [path for path in (*SOURCES, *FILES) if path != file]
    assert any(f'"{file.name}"' in path.read_text(encoding="utf-8") for path in users)


def test_values_are_escaped_and_a_missing_one_is_an_error() -> None:
    context = {"label": "a", "headings": ["h"], "rows": [["<b>&"]], "texts": 1}
    assert "&lt;b&gt;&amp;" in template_text("grid.html.j2", **context, sortable=True)
    with pytest.raises(UndefinedError, match="sortable"):
        template_text("grid.html.j2", **context)


def test_sheets_and_scripts_are_not_escaped_and_stand_in_order() -> None:
    sheet = style_sheet("claims.css", "run_report.css")
    assert sheet.index(":root") < sheet.index("body {") < sheet.index("td.claim") < sheet.index("header.top")
    assert ":root[data-theme=" in sheet and "&" not in sheet.replace("&&", "")
    assert "=>" in script("ab.js") and "{{" not in sheet


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(REPORT).as_posix())
def test_no_page_stands_in_a_python_string(source: Path) -> None:
    texts = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
    pages = [text for text in texts if isinstance(text, str) and text.count("\n") > 2]
    assert not [text for text in pages if "</" in text or "{%" in text or "{ " in text]
