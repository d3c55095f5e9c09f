"""Checks that every command makes before it starts: its outputs have a place of their own, its numbers are finite.

A command reads its inputs first and writes its outputs last. Without these checks an output with the path of an input
would replace the input without a word, and a place that cannot be written would be noticed after hours of computing.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError

OUTPUTS = frozenset({"out", "page", "figure", "picture", "into", "benchmark"})
"""Names of parameters that are outputs. A parameter whose help says "to write" is an output too."""
INPUT_TEXTS = frozenset({"data"})
"""Names of parameters whose text is the name of a built-in data set or a path; a path to a file has a suffix."""


def guard(command: Any) -> None:
    """Let a command of typer, and all commands below it, check their outputs and numbers before they start."""
    for inner in getattr(command, "commands", {}).values():
        guard(inner)
    run, parameters = command.callback, command.params
    if run is None or getattr(run, "is_guarded", False):
        return

    @wraps(run)
    def guarded(**values: Any) -> Any:
        check_call(parameters, values)
        return run(**values)

    guarded.is_guarded = True  # type: ignore[attr-defined]
    command.callback = guarded


def check_call(parameters: Sequence[Any], values: Mapping[str, Any]) -> None:
    """Check the values of a call. `parameters` are those of typer's command, `values` has the value of each name.

    Raises ConfigError for a number that is NaN or infinite, for an output that cannot be written, and for an output
    that is also an input or another output of the command.
    """
    words = {parameter.name: spelled(parameter) for parameter in parameters}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} {value}: is not a finite number; give {words.get(name, name)} another value")
    outputs = {p.name: values[p.name] for p in parameters if is_output(p) and isinstance(values.get(p.name), Path)}
    for parameter in parameters:
        if (path := outputs.get(parameter.name)) is not None:
            require_place(path, words[parameter.name], file=is_file(parameter))
    for name, path in outputs.items():
        others = {other: [value] for other, value in outputs.items() if other != name}
        others |= {other: list(inputs_in(other, value)) for other, value in values.items() if other not in outputs}
        for other, paths in others.items():
            if any(is_same(path, second) for second in paths):
                kind = "output" if other in outputs else "input"
                raise ConfigError(
                    f"{words[name]} {path}: is also the {kind} {words.get(other, other)} of this command, one would"
                    " replace the other; give two different paths"
                )


def spelled(parameter: Any) -> str:
    """Return a parameter as its help shows it: `--out`, or `OUT` for an argument."""
    options = [word for word in parameter.opts if word.startswith("--")]
    return options[0] if options else str(parameter.name).upper()


def is_output(parameter: Any) -> bool:
    """Return whether a command writes to the path that a parameter gives."""
    return parameter.name in OUTPUTS or "to write" in (getattr(parameter, "help", None) or "")


def is_file(parameter: Any) -> bool:
    """Return whether an output is a file in any case. The help of an output that may be a folder says so."""
    text = getattr(parameter, "help", None) or ""
    return "folder" not in text.lower() and "without suffix" not in text


def inputs_in(name: str, value: Any) -> Iterator[Path]:
    """Yield the paths in the value of an input: a path, a list of paths, or a list of texts `kind=path`."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Path):
                yield item
            elif isinstance(item, str) and "=" in item:
                yield Path(item.partition("=")[2])
    elif isinstance(value, str) and name in INPUT_TEXTS and Path(value).suffix:
        yield Path(value)


def is_same(path: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file or folder, or would if they existed."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return path.exists() and other.exists() and path.samefile(other)


def require_place(path: Path, word: str, *, file: bool = False) -> None:
    """Raise ConfigError if `path` cannot be written: its folder is no folder or is read-only. `word` is its flag.

    With `file` a path that is a folder is an error too. A folder that does not exist yet is made by the command that
    writes, which also refuses devices.
    """
    if file and path.is_dir():
        raise ConfigError(f"{word} {path}: is a folder, the output is a file; give the path of a file")
    if path.exists() and not path.is_dir() and not path.is_file():
        return
    above = Path(os.path.normpath(path.absolute())).parents
    existing_folder = path if path.is_dir() else next(folder for folder in above if os.path.lexists(folder))
    if not existing_folder.is_dir():
        raise ConfigError(f"{word} {path}: cannot be written, {existing_folder} is not a folder; give another path")
    if not os.access(existing_folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{word} {path}: cannot be written, no permission to write in {existing_folder}; give another path"
        )
