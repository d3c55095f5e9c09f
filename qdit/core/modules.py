"""Source files of modules. They are found, and checked for syntax errors, without importing the modules."""

import ast
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT, folder_of

PACKAGES = ("qdit", "baselines")
"""Our own packages: a checkout or a wheel holds them."""


def module_file(module: str, root: Path | None = None) -> Path | None:
    """Source file of a module or package; None if there is none.

    Modules of our packages lie below `root`, by default in this installation. Other modules lie where Python finds
    them.
    """
    package = module.partition(".")[0]
    if package not in PACKAGES:
        return installed_file(module)
    base = (root or folder_of(package)).joinpath(*module.split("."))
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def installed_file(module: str) -> Path | None:
    """Source file of a module of another package. Unlike `find_spec`, it does not import the parent packages."""
    top, *rest = module.split(".")
    try:
        spec: ModuleSpec | None = find_spec(top)
    except (ImportError, ValueError):
        return None
    name = top
    for submodule in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{submodule}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def shown(path: Path) -> str:
    """The path of a source file as messages show it: relative to the checkout if the file lies there."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def parse_source(path: Path) -> ast.Module:
    """Syntax tree of a source file; ConfigError with file, line and reason for a syntax error."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise _unreadable(path, problem) from None
    return parse_text(decoded_source(path, content), path)


def decoded_source(path: Path, content: bytes) -> str:
    """Text of the source file whose bytes are `content`; ConfigError if they are not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise _unreadable(path, problem) from None


def _unreadable(path: Path, problem: Exception) -> ConfigError:
    return ConfigError(f"{shown(path)}: cannot be read as text ({problem}); correct the file")


@cache
def parse_text(source: str, path: Path) -> ast.Module:
    """Syntax tree of a source text of the file `path`. A text that was parsed before is not parsed again."""
    return syntax_tree(source, path)


def syntax_tree(source: str, path: Path) -> ast.Module:
    """Syntax tree of a source text of the file `path`; ConfigError names file, line and reason of an error."""
    try:
        return ast.parse(source, str(path))
    except SyntaxError as problem:
        line = problem.lineno or 1
        raise ConfigError(f"{shown(path)} line {line}: {problem.msg}; correct the file") from None
    except (ValueError, RecursionError, MemoryError) as problem:  # null bytes; expressions nested too deeply
        raise ConfigError(f"{shown(path)} line 1: {problem}; correct the file") from None
