"""Finds the modules of methods (`baselines/`, Q-DiT's, installed packages) without importing them.

A package offers its methods through the entry-point group `qdit.methods`; the value is `package.module:Class`.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.modules import module_file, parse_source, shown
from qdit.core.repository import ROOT

GROUP = "qdit.methods"
"""Entry-point group through which other packages offer methods."""
STEP = "qdit.methods.quantize"
"""Module of the step weights → checkpoint; its digest and that of the method's module are a checkpoint's code."""


@dataclass(frozen=True)
class MethodModule:
    """A module of methods: with all its methods, or with the one class that an entry point names."""

    module: str
    path: Path | None
    class_name: str | None = None

    @property
    def where(self) -> str:
        """File of the module for messages; without a file its name."""
        return f"module {self.module}" if self.path is None else shown(self.path)


@dataclass(frozen=True)
class BrokenFile:
    """A file of methods that cannot be used: one line with the reason, and the names of its methods."""

    reason: str
    names: tuple[str, ...] = ()


def method_modules() -> list[MethodModule]:
    """Every module of methods: those of `baselines/` by name, Q-DiT's, those of other packages by name."""
    files = sorted((ROOT / "baselines").glob("*.py"))
    own_modules = [f"baselines.{file.stem}" for file in files if file.stem != "__init__"]
    modules = [MethodModule(name, module_file(name)) for name in [*own_modules, "qdit.methods.q_dit"]]
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.value):
        module, _, class_name = point.value.partition(":")
        plugin = MethodModule(module.strip(), module_file(module.strip()), class_name.strip() or None)
        modules += [plugin] if plugin not in modules else []
    return modules


def claimed_names(path: Path | None) -> tuple[str, ...]:
    """Names of the methods in a broken file, found in its text. If the text has none, the name of the file."""
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = re.findall(r"^\s+name(?:\s*:[^=\n]*)?\s*=\s*[\"']([^\"'\n]+)[\"']", text, flags=re.MULTILINE)
    return tuple(dict.fromkeys(names)) or (path.stem.replace("_", "-"),)


def syntax_of(origin: MethodModule) -> ast.Module:
    """Syntax tree of a module of methods. ConfigError in one line for a file that is missing or no Python."""
    if origin.path is None:
        raise ConfigError(f"module {origin.module}: no source file found for this entry point of {GROUP}; reinstall it")
    return parse_source(origin.path)


def needed_kinds(
    calibration: tuple[str, ...], unused: tuple[tuple[str, str, Any], ...], options: Mapping[str, Any]
) -> tuple[str, ...]:
    """Kinds of calibration data that a method needs with these options, defaults included.

    `unused` holds (kind, option, value): with this value of this option the kind is not needed.
    """
    idle = {kind for kind, name, value in unused if name in options and options[name] == value}
    return tuple(kind for kind in calibration if kind not in idle)


def unknown_method(name: str, known: Mapping[str, Any], broken: tuple[BrokenFile, ...]) -> ConfigError:
    """The error for a method that does not exist: with the reason if its file is broken, else with the names."""
    for file in broken:
        if name in file.names:
            return ConfigError(f"method {name!r}: {file.reason}")
    hint = did_you_mean(name, known)
    return ConfigError(f"method {name!r}: allowed are {', '.join(sorted(known))}{hint}")
