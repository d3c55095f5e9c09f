"""Make a table by the function of its kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean
from qdit.report.data.published import published_folder
from qdit.report.data.rows import Table
from qdit.report.tables.comparison import COMPARISONS, comparison
from qdit.report.tables.integer import integer
from qdit.report.tables.methods import methods
from qdit.report.tables.qc import qc
from qdit.report.tables.table1 import table1
from qdit.report.tables.table3 import table3
from qdit.report.tables.table4 import table4
from qdit.report.tables.table6 import table6
from qdit.report.tables.tools import tools
from qdit.report.tables.transfer import transfer
from qdit.report.tables.variants import variants

KINDS: dict[str, Callable[[Mapping[str, Any], str, Path, Path], Table]] = {
    **dict.fromkeys(COMPARISONS, comparison),
    "table1": table1,
    "table3": table3,
    "table4": table4,
    "table6": table6,
    "transfer": transfer,
    "variants": variants,
    "integer": integer,
    "methods": methods,
    "qc": qc,
    "tools": tools,
}
"""Kind of a table (`kind` in a profile's `tables:` entry) → function that builds it."""


def load_table(profile: Mapping[str, Any], table: str, results: Path) -> Table:
    """Make a table from the profile's folder `results` and the published numbers.

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
