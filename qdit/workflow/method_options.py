"""Read the options class of every method without importing the method's file (an import of torch takes seconds).

Only the dataclass itself is executed, with the names that it uses. Names from light modules are imported. Names from
other modules of this project are read from their sources in the same way.
"""

import ast
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qdit.core.options import parse_options
from qdit.core.repository import ROOT
from qdit.workflow.method_index import method_sources

LIGHT = ("annotated_types", "collections", "dataclasses", "enum", "math", "pathlib", "qdit.core", "re", "typing")
"""Packages that are imported for real: they cost nothing."""


class NotReadable(Exception):
    """Raised for a definition that cannot be read without importing its file."""


def check_method_options(method: str, values: Mapping[str, Any], *, where: str) -> None:
    """Raise ConfigError unless the method accepts these options. `where` is their position in a profile.

    If the options of a method cannot be read without an import, the quantize step checks them later.
    """
    options = options_class(method)
    if options is not None:
        parse_options(method, options, values, position=where)


@cache
def options_class(method: str) -> type | None:
    """Return a copy of the options dataclass of a method; None if this needs an import of the method's file."""
    facts = method_sources().get(method)
    if facts is None:  # its file is broken: the quantize step says so
        return None
    module = facts.module
    try:
        definition_node = next(node for node in classes(module) if constant(attribute(node, "name")) == method)
        return options_of(module, definition_node)
    except (NotReadable, StopIteration):
        return None


def options_of(module: str, method: ast.ClassDef) -> type:
    """Return the class `Options` of a method, from its class or from the first base class that has one."""
    named = attribute(method, "Options")
    if isinstance(named, ast.Name):
        options = definition(module, named.id)
        if isinstance(options, type):
            return options
    for base in method.bases:
        if isinstance(base, ast.Name):
            home, node = source_of(module, base.id)
            if isinstance(node, ast.ClassDef):
                return options_of(home, node)
    raise NotReadable(f"{module}: {method.name} has no options that are written as a class")


@cache
def definition(module: str, name: str) -> Any:
    """Return the value of a name in a module's source. NotReadable if that needs a module slow to import."""
    home, node = source_of(module, name)
    if node is None:
        return getattr(importlib.import_module(home), name)
    read = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)]
    needed = sorted({inner.id for inner in read} - {name})
    names = {other: definition(home, other) for other in needed if is_bound(home, other)}
    space: dict[str, Any] = {**names, "__name__": home}
    try:
        exec(compile(ast.Module([node], []), str(module_file(home)), "exec", dont_inherit=True), space)
    except Exception as problem:
        raise NotReadable(f"{home}.{name}: {problem}") from None
    return space[name]


def source_of(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """Return the module and the statement that define a name. The statement is None for modules that import fast."""
    for node in tree(module).body:
        if name in defined(node):
            return module, node
        for origin, original, alias in imported(module, node):
            if alias == name:
                if any(origin == light or origin.startswith(f"{light}.") for light in LIGHT):
                    return origin, None
                if origin.split(".")[0] not in ("qdit", "baselines", module.split(".")[0]):
                    raise NotReadable(f"{module}: {name} is of {origin}")
                return source_of(origin, original)
    raise NotReadable(f"{module} defines no {name}")


def is_bound(module: str, name: str) -> bool:
    """Return whether a module defines a name at its top level. Other names are built-in, or local to a function."""
    return any(
        name in defined(node) or name in [alias for *_, alias in imported(module, node)] for node in tree(module).body
    )


def defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def imported(module: str, node: ast.stmt) -> Iterator[tuple[str, str, str]]:
    """Yield the names that `from … import …` defines, as (module, name in that module, name in this file)."""
    if isinstance(node, ast.ImportFrom):
        package = module.split(".")[: -node.level] if node.level else []
        origin = ".".join([*package, *([node.module] if node.module else [])])
        yield from ((origin, alias.name, alias.asname or alias.name) for alias in node.names)


def classes(module: str) -> list[ast.ClassDef]:
    """Return the classes in a module's source, except classes inside other classes or functions."""
    return [node for node in tree(module).body if isinstance(node, ast.ClassDef)]


def attribute(node: ast.ClassDef, name: str) -> ast.expr | None:
    """Return the expression that a class body assigns to `name`; None if there is none."""
    for line in node.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and name in defined(line):
            return line.value
    return None


def constant(node: ast.expr | None) -> Any:
    """Return the value of a literal; None for any other expression."""
    return node.value if isinstance(node, ast.Constant) else None


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module's source."""
    try:
        return ast.parse(module_file(module).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as problem:
        raise NotReadable(f"{module}: {problem}") from None


def module_file(module: str) -> Path:
    """Return the source file of a module: of this checkout, or of an installed package."""
    package, *inner = module.split(".")
    spec = None if (ROOT / package).is_dir() else importlib.util.find_spec(package)  # of a package: imports nothing
    roots = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else [str(ROOT / package)]
    for root in roots:
        for file in (Path(root, *inner).with_suffix(".py"), Path(root, *inner, "__init__.py")):
            if file.is_file():
                return file
    raise NotReadable(f"{module}: no source")
