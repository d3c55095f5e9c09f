"""Digest of code: what a result depends on but Snakemake cannot see, the modules that a step imports.

`code_digest` hashes the sources of the static import closure of some modules, within this repository's packages.
Editing a file changes the digest of exactly the steps that import it, directly or not. A module that is loaded by
name at run time (a method's) is not seen: give it as an argument of its own.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT

PACKAGES = ("qdit", "baselines")


def module_file(module: str, root: Path = ROOT) -> Path | None:
    """Source file of one of our modules or packages, None if there is no such module below `root`."""
    base = root.joinpath(*module.split("."))
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def imported_names(source: str, package: str) -> frozenset[str]:
    """What a module of `package` imports from our packages, wherever the import stands; some names are no modules.

    `from a import b` gives both a and a.b, since b may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.partition(".")[0] in PACKAGES)


def import_closure(*modules: str, root: Path = ROOT) -> list[Path]:
    """Source files that the modules reach by imports, the modules and the packages they lie in included, sorted.

    Raises ConfigError for a module that does not exist.
    """
    found: set[Path] = set()
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = module_file(module, root)
        if path is None:
            if module in modules:
                raise ConfigError(f"module {module!r}: no such file below {root}; check the name")
            continue
        found.add(path)
        parent = module.rpartition(".")[0]
        package = module if path.name == "__init__.py" else parent
        waiting += [*imported_names(path.read_text(encoding="utf-8"), package), *([parent] if parent else [])]
    return sorted(found)


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """sha256 over names and sources of the modules' import closure; ConfigError for a module that does not exist."""
    digest = hashlib.sha256()
    for path in import_closure(*modules, root=root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
