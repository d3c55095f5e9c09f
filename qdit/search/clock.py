"""The seconds that a search took. They have their own file, so that equal searches write equal allocation files."""

import time
from pathlib import Path
from typing import Any

from qdit.core.errors import DataError
from qdit.core.files import read_json, write_json
from qdit.core.provenance import processor

EVERY = 1.0
"""Seconds between two writes."""


class Clock:
    """A clock that counts the seconds of a search, and those of its earlier, killed attempts (same `identity_sha256`).

    It can be called after every measurement. Then it writes the seconds to its file if the last write is a second or
    more ago. `stop` always writes. So a killed search loses at most a second.
    """

    def __init__(self, path: Path, identity_sha256: str, *, workers: int) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "identity_sha256": identity_sha256,
            "workers": workers,
            "processor": processor(),
        }
        self.before = self._earlier()
        self.start = self.written = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of this search so far, with those of earlier attempts."""
        return self.before + time.monotonic() - self.start

    def __call__(self, *_: object) -> None:
        """A journal's `listen`."""
        if time.monotonic() - self.written >= EVERY:
            self.stop()

    def stop(self) -> None:
        """Write the seconds so far to the file."""
        write_json(self.path, self.content | {"seconds": round(self.seconds, 1)})
        self.written = time.monotonic()

    def _earlier(self) -> float:
        try:
            stored = read_json(self.path)
            same = stored["identity_sha256"] == self.content["identity_sha256"]
            return float(stored["seconds"]) if same else 0.0
        except (DataError, KeyError, TypeError, ValueError):
            return 0.0


def times_path(out: Path) -> Path:
    """Path of the file with the search time that belongs to the allocation file `out`."""
    return out.with_suffix(".times.json")
