"""The registry of methods: classes in `baselines/`, in `qdit.methods.q_dit` and in installed packages.

If a file cannot be imported, only the methods of this file are missing. A request for one of them gives the reason.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qdit.core.errors import ConfigError
from qdit.core.method_modules import MethodModule, claimed_names, import_module, import_problem
from qdit.core.modules import shown
from qdit.methods.method import Method
from qdit.methods.sources import BrokenFile, method_modules, unknown_method
from qdit.sampling.calibration import KINDS


@dataclass(frozen=True)
class Registry:
    """Every method by name, and the files whose methods cannot be used."""

    methods: Mapping[str, Method]
    broken: tuple[BrokenFile, ...]


@cache
def load_registry() -> Registry:
    """Import every module that defines methods, and make the registry."""
    methods: dict[str, Method] = {}
    broken: list[BrokenFile] = []
    for origin in method_modules():
        try:
            for method in methods_of(origin):
                add(methods, method)
        except ConfigError as problem:
            broken.append(BrokenFile(str(problem), claimed_names(origin.path)))
    return Registry(methods, tuple(broken))


def methods_of(origin: MethodModule) -> list[Method]:
    """Import a module and make an instance of each of its methods; ConfigError with one line if this fails."""
    module = import_module(origin)
    if origin.class_name is not None:
        classes = [getattr(module, origin.class_name, None)]
        if not (inspect.isclass(classes[0]) and issubclass(classes[0], Method)):
            raise ConfigError(
                f"{origin.where}: {origin.class_name} is not a subclass of Method; correct the entry point"
            )
    else:
        classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Method)]
        classes = [value for value in classes if value.__module__ == origin.module]
    try:
        return [value() for value in classes if value is not None and not inspect.isabstract(value)]
    except Exception as problem:
        raise ConfigError(import_problem(origin, problem)) from None


def add(methods: dict[str, Method], method: Method) -> None:
    """Add a method to the registry; ConfigError if it has no name or its name is taken."""
    path = Path(inspect.getfile(type(method)))
    name = getattr(method, "name", None)
    if not isinstance(name, str):
        raise ConfigError(f'{shown(path)}: class {type(method).__name__} has no name; add name = "…"')
    if name in methods:
        raise ConfigError(f"{shown(path)}: a method named {name!r} exists already; choose another name")
    for attribute in ("citation", "Options"):
        if not hasattr(method, attribute):
            raise ConfigError(f"{shown(path)}: method {name!r} has no {attribute}; add it to the class")
    if unknown := [kind for kind in method.calibration if kind not in KINDS]:
        raise ConfigError(f"{shown(path)}: calibration {unknown[0]!r}: allowed are {', '.join(KINDS)}")
    methods[name] = method


def registry() -> Mapping[str, Method]:
    """All methods by name."""
    return load_registry().methods


def find_method(name: str) -> Method:
    """The method of this name.

    ConfigError with a suggestion if it is unknown, or with the reason if its file is broken.
    """
    loaded = load_registry()
    if name not in loaded.methods:
        raise unknown_method(name, loaded.methods, loaded.broken)
    return loaded.methods[name]
