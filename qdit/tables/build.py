"""Build one table of a profile in every format; what `qdit table` calls."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qdit.artifacts import write_text
from qdit.errors import ConfigError, did_you_mean
from qdit.tables.comparison import COMPARISONS, comparison
from qdit.tables.integer import integer
from qdit.tables.page import html_text
from qdit.tables.published import published_folder
from qdit.tables.qc import qc
from qdit.tables.render import csv_text, latex_text, markdown_text
from qdit.tables.rows import Table
from qdit.tables.table1 import table1
from qdit.tables.table3 import table3
from qdit.tables.table4 import table4
from qdit.tables.table6 import table6
from qdit.tables.transfer import transfer
from qdit.tables.variants import variants

KINDS: dict[str, Callable[[Mapping[str, Any], str, Path, Path], Table]] = {
    **dict.fromkeys(COMPARISONS, comparison),
    "table1": table1,
    "table3": table3,
    "table4": table4,
    "table6": table6,
    "transfer": transfer,
    "variants": variants,
    "integer": integer,
    "qc": qc,
}
"""Layouts that a profile's `tables:` entry can ask for."""


def load_table(profile: Mapping[str, Any], table: str, results: Path) -> Table:
    """The rows of a table, read from `results` (results/<profile>) and the published numbers.

    Raises ConfigError for a table or a kind that does not exist.
    """
    tables = profile["tables"]
    if table not in tables:
        raise ConfigError(
            f"table {table!r} is not in profile {profile['profile']!r} (it has: {', '.join(tables) or 'none'})"
            f"{did_you_mean(table, tables)}"
        )
    kind = tables[table]["kind"]
    if kind not in KINDS:
        raise ConfigError(f"table {table!r}: kind {kind!r} is not one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    return KINDS[kind](profile, table, results, published_folder(results))


def build_table(profile: Mapping[str, Any], table: str, results: Path, out_prefix: Path) -> list[Path]:
    """Write `<out_prefix>.csv`, `.md`, `.tex` and `.html` and return their paths; equal results give equal bytes.

    A run without a usable metrics.json is a row that says why.
    """
    loaded = load_table(profile, table, results)
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
