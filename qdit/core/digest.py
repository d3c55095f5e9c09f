"""Digest of code: what a result depends on but Snakemake cannot see, the modules that a step imports.

`code_digest` hashes the sources of the static import closure of some modules, within this repository's packages.
Editing a file changes the digest of exactly the steps that import it, directly or not. A module that is loaded by
name at run time (a method's, an extractor's) is not seen: give it as an argument of its own.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from qdit.core.errors import ConfigError
from qdit.core.repository import folder_of

PACKAGES = ("qdit", "baselines")


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


class Sources:
    """Our sources, each read once: many digests of one moment cost little more than one.

    Without `root` they are those of this installation, wherever its two packages lie.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.roots = {package: root or folder_of(package) for package in PACKAGES}
        self.file_of = cache(self._file_of)
        self.text_of = cache(self._text_of)
        self.imports_of = cache(self._imports_of)
        self.closure = cache(self._closure)
        self.digest = cache(self._digest)

    def _file_of(self, module: str) -> Path | None:
        """Source file of a module or package, None if there is no such module below the root."""
        names = module.split(".")
        if names[0] not in self.roots:
            return None
        base = self.roots[names[0]].joinpath(*names)
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
        return None

    def _root_of(self, module: str) -> Path:
        return self.roots.get(module.partition(".")[0], self.roots[PACKAGES[0]])

    def _name_of(self, path: Path) -> str:
        """`qdit/core/digest.py`, wherever the package lies."""
        roots = [root for package, root in self.roots.items() if path.is_relative_to(root / package)]
        return path.relative_to(roots[0]).as_posix()

    def _text_of(self, path: Path) -> bytes:
        return path.read_bytes()

    def _imports_of(self, module: str) -> frozenset[str]:
        """Modules that a module imports, and the package it lies in."""
        path = self.file_of(module)
        if path is None:
            return frozenset()
        parent = module.rpartition(".")[0]
        package = module if path.name == "__init__.py" else parent
        names = imported_names(self.text_of(path).decode(), package) | ({parent} if parent else set())
        return frozenset(name for name in names if self.file_of(name) is not None)

    def _closure(self, *modules: str) -> tuple[Path, ...]:
        """Source files that the modules reach by imports, their packages included, sorted; ConfigError if absent."""
        for module in modules:
            if self.file_of(module) is None:
                raise ConfigError(f"module {module!r}: no such file below {self._root_of(module)}; check the name")
        reached: set[str] = set()
        waiting = set(modules)
        while waiting:
            reached |= waiting
            waiting = {name for module in waiting for name in self.imports_of(module)} - reached
        return tuple(sorted({path for module in reached if (path := self.file_of(module)) is not None}))

    def _digest(self, *modules: str) -> str:
        """sha256 over names and sources of the modules' import closure; ConfigError for a module that is absent."""
        digest = hashlib.sha256()
        for path in self.closure(*modules):
            digest.update(f"{self._name_of(path)}\0".encode())
            digest.update(self.text_of(path) + b"\0")
        return digest.hexdigest()


def import_closure(*modules: str, root: Path | None = None) -> list[Path]:
    """Source files that the modules reach by imports now, the modules and the packages they lie in included, sorted.

    Raises ConfigError for a module that does not exist.
    """
    return list(Sources(root).closure(*modules))


def code_digest(*modules: str, root: Path | None = None) -> str:
    """sha256 over names and sources of the modules' import closure; ConfigError for a module that does not exist."""
    return Sources(root).digest(*modules)
