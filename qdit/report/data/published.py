"""Read the numbers that the papers print (results/published/*.csv), and match them to our rows.

A blank cell is a number that we do not know; it stays blank everywhere.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError, did_you_mean
from qdit.core.repository import ROOT
from qdit.workflow.method_index import method_sources

Value = float | int | str | None
PublishedRow = dict[str, Value]

OPTIONS_IN_WORDS = ("activation", "rounding")
"""Options whose values say enough: `dynamic`, `nearest`."""

REPOSITORY_COPY = ROOT / "results" / "published"


@cache
def method_names() -> Mapping[str, str]:
    """Return method → its name in print, from its class. Labels such as `rtn-g16-static` have no name in print."""
    return {name: facts.printed for name, facts in method_sources().items() if facts.printed != name}


def printed_name(label: str) -> str:
    """Return the name of a method in print. A label that is no method stays unchanged."""
    return method_names().get(label, label)


def readable_name(label: str, entry: Mapping[str, Any]) -> str:
    """Return the name of a row for readers: the name in print, the profile's words, or the method with its options."""
    if "images" in entry:
        return f"{entry.get('about', label)} (imported)"
    if "tool" in entry:
        return str(entry.get("about", label))
    if label in method_names():
        return method_names()[label]
    if entry.get("about"):
        return str(entry["about"])
    options = dict(entry.get("options") or {})
    words = [printed_name(str(entry["method"]))]
    if (size := options.pop("group_size", None)) is not None:
        words.append(f"groups of {size}")
    words += [str(value) if name in OPTIONS_IN_WORDS else f"{name} {value}" for name, value in options.items()]
    return ", ".join(words) if len(words) > 1 else label


def published_folder(results: Path) -> Path:
    """Return the folder of the papers' numbers: beside the profile's results if it exists, else in the repository."""
    beside = results.parent / "published"
    return beside if beside.is_dir() else REPOSITORY_COPY


def read_published(path: Path) -> list[PublishedRow]:
    """Read one table of a paper as rows; numbers become int or float, blank cells None.

    Raises DataError for a missing file or a row whose number of cells is not that of the header.
    """
    try:
        with path.open(encoding="utf-8", newline="") as text:
            header, *lines = csv.reader(text)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; the published numbers belong to the repository, restore it") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: not a CSV table with a header line ({problem}); restore it") from None
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise DataError(f"{path} line {number}: {len(line)} cells, expected {len(header)}; restore the file")
    return [dict(zip(header, map(_value, line), strict=True)) for line in lines]


def _value(cell: str) -> Value:
    if cell.strip() == "":
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def find(rows: list[PublishedRow], **keys: Value) -> PublishedRow | None:
    """Return the only row whose cells have these values (column=value), or None.

    Raises ConfigError for an unknown column, and DataError for several matching rows.
    """
    for key in keys:
        if rows and key not in rows[0]:
            columns = ", ".join(rows[0])
            raise ConfigError(f"published numbers have no column {key!r} (only {columns}){did_you_mean(key, rows[0])}")
    matches = [row for row in rows if all(row.get(key) == value for key, value in keys.items())]
    if len(matches) > 1:
        raise DataError(f"published rows with {keys}: found {len(matches)}, expected one; name more keys")
    return matches[0] if matches else None
