"""Words of a command line, quoted for a shell."""

import shlex
from collections.abc import Mapping
from typing import Any


def flags(values: Mapping[str, Any]) -> list[str]:
    """Command-line words from a mapping of flags to values."""
    return [str(word) for pair in values.items() for word in pair]


def command(*words: object) -> str:
    """Join words to a shell command."""
    return shlex.join(map(str, words))


def shown(command: str) -> str:
    """Text of a command as a user types it."""
    return f"qdit {command}"
