"""Facts about methods that need no import of a method: their modules, and the error messages for unknown names.

`qdit.core.method_modules` finds the modules in `baselines/` and in installed packages. Q-DiT's module is added here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.method_modules import MethodModule, contributed_modules
from qdit.core.modules import module_file

STEP = "qdit.methods.quantize"
"""Module of the step weights → checkpoint; its digest and that of the method's module are a checkpoint's code."""
Q_DIT = "qdit.methods.q_dit"


@dataclass(frozen=True)
class BrokenFile:
    """A file whose methods cannot be used: the reason in one line, and the names of its methods."""

    reason: str
    names: tuple[str, ...] = ()


def method_modules() -> list[MethodModule]:
    """All modules that define methods: those of `baselines/` by name, Q-DiT's, then those of other packages by name."""
    shipped, plugins = contributed_modules()
    modules = [*shipped, MethodModule(Q_DIT, module_file(Q_DIT))]
    return modules + [plugin for plugin in plugins if plugin not in modules]


def needed_kinds(
    calibration: tuple[str, ...], unused: tuple[tuple[str, str, Any], ...], options: Mapping[str, Any]
) -> tuple[str, ...]:
    """Kinds of calibration data that a method needs with these options. A missing option has its default.

    `unused` holds (kind, option, value): with this value of this option the kind is not needed.
    """
    idle = {kind for kind, name, value in unused if name in options and options[name] == value}
    return tuple(kind for kind in calibration if kind not in idle)


def unknown_method(name: str, known: Mapping[str, Any], broken: tuple[BrokenFile, ...]) -> ConfigError:
    """Make the error for a method that does not exist. It gives the reason if the method's file is broken.

    Otherwise it gives the names of all methods.
    """
    for file in broken:
        if name in file.names:
            return ConfigError(f"method {name!r}: {file.reason}")
    hint = did_you_mean(name, known)
    return ConfigError(f"method {name!r}: allowed are {', '.join(sorted(known))}{hint}")
