"""Modules that define methods: those of `baselines/` and those of installed packages. They are found without import.

A package offers its methods through the entry-point group `qdit.methods`; the value is `package.module:Class`. The
registry of methods and the reader of checkpoints both need this list: a checkpoint may hold kinds of weights or
quantizers that such a module defines.
"""

import ast
import importlib
import re
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from qdit.core.errors import ConfigError
from qdit.core.modules import module_file, parse_source, shown
from qdit.core.repository import ROOT, make_baselines_importable

GROUP = "qdit.methods"
"""Entry-point group through which other packages offer methods."""


@dataclass(frozen=True)
class MethodModule:
    """A module that defines methods. `class_name` restricts it to the one class that an entry point names."""

    module: str
    path: Path | None
    class_name: str | None = None

    @property
    def where(self) -> str:
        """File of the module, for messages; the module's name if it has no file."""
        return f"module {self.module}" if self.path is None else shown(self.path)


def contributed_modules() -> tuple[list[MethodModule], list[MethodModule]]:
    """All modules that define methods: those of `baselines/`, sorted by name, then those of other packages."""
    files = sorted((ROOT / "baselines").glob("*.py"))
    shipped = [f"baselines.{file.stem}" for file in files if file.stem != "__init__"]
    plugins: list[MethodModule] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.value):
        module, _, class_name = point.value.partition(":")
        plugin = MethodModule(module.strip(), module_file(module.strip()), class_name.strip() or None)
        plugins += [plugin] if plugin not in plugins else []
    return [MethodModule(name, module_file(name)) for name in shipped], plugins


def claimed_names(path: Path | None) -> tuple[str, ...]:
    """Names of the methods that a file defines, found in its text. If the text has none, the file's own name."""
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = re.findall(r"^\s+name(?:\s*:[^=\n]*)?\s*=\s*[\"']([^\"'\n]+)[\"']", text, flags=re.MULTILINE)
    return tuple(dict.fromkeys(names)) or (path.stem.replace("_", "-"),)


def modules_of(method: str, modules: Iterable[MethodModule]) -> Iterator[MethodModule]:
    """Those of the given modules whose source text defines a method of this name."""
    return (origin for origin in modules if method in claimed_names(origin.path))


def syntax_of(origin: MethodModule) -> ast.Module:
    """Syntax tree of a module that defines methods.

    Raises ConfigError, with a message of one line, for a file that is missing or is not Python.
    """
    if origin.path is None:
        raise ConfigError(f"module {origin.module}: no source file found for this entry point of {GROUP}; reinstall it")
    return parse_source(origin.path)


def import_module(origin: MethodModule) -> ModuleType:
    """Import a module that defines methods; ConfigError with a message of one line if the import fails."""
    make_baselines_importable()
    syntax_of(origin)
    try:
        return importlib.import_module(origin.module)
    except (Exception, SystemExit) as problem:
        raise ConfigError(import_problem(origin, problem)) from None


def import_problem(origin: MethodModule, problem: BaseException) -> str:
    """Text of a failed import in one line: the error, and the line of the module's own file that caused it."""
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if origin.path is not None and Path(frame.filename) == origin.path]
    at = f" line {lines[-1]}" if lines else ""
    text = " ".join(str(problem).split()) or "no message"
    return f"{origin.where}{at}: {type(problem).__name__}: {text}; correct the file"
