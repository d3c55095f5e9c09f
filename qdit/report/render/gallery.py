"""Read the figures of a run for its report. `figures/figures.json` lists them, each as SVG and PNG."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from qdit.core.errors import DataError
from qdit.core.files import read_json
from qdit.report.render.sheets import data_uri

FOLDER = "figures"
FILE = "figures.json"
FIELDS = ("name", "title", "caption", "group", "file_svg", "file_png", "alt")
SVG = "data:image/svg+xml;base64,"


@dataclass(frozen=True)
class Picture:
    """A figure in the page: its content as a data URI, or None if the page has no room for it."""

    name: str
    title: str
    caption: str
    group: str
    alt: str
    uri: str | None
    file: str


def list_file(results: Path) -> Path:
    """Return the path of figures.json, the list of a run's figures."""
    return results / FOLDER / FILE


def gallery(results: Path, room: int) -> list[tuple[str, list[Picture]]]:
    """Return the figures by group, in the order of figures.json. Together they take at most `room` bytes.

    Empty without a figures.json. Raises DataError for a damaged figures.json, or for a figure without its file.
    """
    path = list_file(results)
    if not path.is_file():
        return []
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of figures, found {type(entries).__name__}; draw the figures again")
    pictures = []
    for entry in entries:
        picture = _picture(entry, path, room)
        room -= len(picture.uri or "")
        pictures.append(picture)
    groups = dict.fromkeys(picture.group for picture in pictures)
    ordered = sorted(pictures, key=lambda picture: list(groups).index(picture.group))
    return [(group, list(of)) for group, of in groupby(ordered, key=lambda picture: picture.group)]


def _picture(entry: Any, path: Path, room: int) -> Picture:
    """A figure in the smaller of its two formats; without a URI if that exceeds `room` bytes."""
    lacking = [name for name in FIELDS if not isinstance(entry, Mapping) or not isinstance(entry.get(name), str)]
    if lacking:
        raise DataError(f"{path}: a figure lacks {', '.join(lacking)}; draw the figures again")
    files = [path.parent / entry["file_svg"], path.parent / entry["file_png"]]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise DataError(f"{path}: {', '.join(missing)} is not there; draw the figures again")
    data = min((file.read_bytes() for file in files), key=len)
    uri = data_uri(data)
    if not data.startswith(b"\x89PNG"):
        uri = SVG + uri.partition(",")[2]
    known = {name: entry[name] for name in ("name", "title", "caption", "group", "alt")}
    return Picture(**known, uri=uri if len(uri) <= room else None, file=f"{FOLDER}/{entry['file_svg']}")
