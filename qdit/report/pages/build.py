"""Build one table of a profile in every format (`qdit table`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import DataError
from qdit.core.files import write_text
from qdit.report.data.presence import advice
from qdit.report.data.rows import only_measured
from qdit.report.pages.table_page import html_text
from qdit.report.render.text import csv_text, latex_text, markdown_text
from qdit.report.tables.kinds import load_table


def build_table(
    profile: Mapping[str, Any], table: str, results: Path, out_prefix: Path, *, partial: bool = False
) -> list[Path]:
    """Write `<out_prefix>.csv`, `.md`, `.tex` and `.html` and return their paths. Equal results give equal bytes.

    A run without a usable metrics.json is a row with the reason. `partial` leaves out rows that have no result yet; the
    page then counts these rows, and reloads itself twice a minute. If no row has a result, `partial` raises DataError.
    """
    loaded = load_table(profile, table, results)
    if partial:
        loaded = only_measured(loaded)
        if not loaded.blocks:
            raise DataError(f"{table}: none of its {loaded.waiting} rows has a result in {results} yet; {advice()}")
    texts = {
        "csv": csv_text(loaded),
        "md": markdown_text(loaded),
        "tex": latex_text(loaded),
        "html": html_text(loaded, results),
    }
    paths = {suffix: out_prefix.with_name(f"{out_prefix.name}.{suffix}") for suffix in texts}
    for suffix, path in paths.items():
        write_text(path, texts[suffix])
    return list(paths.values())
