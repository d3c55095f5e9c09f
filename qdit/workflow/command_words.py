"""Join and quote the words of a command line."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def flags(values: Mapping[str, Any]) -> list[str]:
    """Turn {flag: value} into the words of a command line."""
    return [str(word) for pair in values.items() for word in pair]


def profile_flags(name: str, layers: Sequence[str] = ()) -> str:
    """Return the flags that name a profile in a command: its files (`layers`), or its name if they are not known."""
    return " ".join(f"--profile {shlex.quote(str(layer))}" for layer in layers or [name])


def command(*words: object) -> str:
    """Join words to one line for a shell; each word is quoted if necessary."""
    return shlex.join(map(str, words))


def shown(command: str) -> str:
    """Write a command as a user types it."""
    return f"qdit {command}"
