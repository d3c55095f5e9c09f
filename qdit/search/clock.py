"""Seconds spent on a search, in a separate file. So equal searches give allocation files with equal bytes."""

import time
from pathlib import Path
from typing import Any

from qdit.core.errors import DataError
from qdit.core.files import read_json, write_json
from qdit.core.provenance import processor

EVERY = 1.0
"""Seconds between two writes."""


class Clock:
    """Counts seconds. It adds the seconds of earlier, killed attempts of the same search (`identity_sha256`).

    Callers may ask it to write at any time. It writes at most once a second, and at `stop`. So a kill loses at most a
    second.
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
        """Seconds so far."""
        return self.before + time.monotonic() - self.start

    def __call__(self, *_: object) -> None:
        """A journal's `listen`."""
        if time.monotonic() - self.written >= EVERY:
            self.stop()

    def stop(self) -> None:
        """Write the seconds so far."""
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
    """Path of the file that holds the time of a search."""
    return out.with_suffix(".times.json")
