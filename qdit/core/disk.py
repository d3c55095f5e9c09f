"""Check of free disk space before a step begins hours of computation."""

import shutil
from pathlib import Path

from qdit.core.errors import DataError

SPARE = 1 << 24
"""Bytes that must stay free."""


def require_room(folder: Path, size: float, what: str) -> None:
    """Raise DataError if the disk of `folder` has no room for `size` bytes. `what` names these bytes in the message."""
    parent = next(ancestor for ancestor in (folder.absolute(), *folder.absolute().parents) if ancestor.is_dir())
    free = shutil.disk_usage(parent).free
    if size + SPARE > free:
        raise DataError(
            f"{parent}: {free / 1e6:,.0f} MB are free, {what} need {(size + SPARE) / 1e6:,.0f} MB; make room, or put"
            " the results on another disk"
        )
