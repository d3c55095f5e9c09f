"""Digest of code: one hash of the sources of all modules that a step imports, which Snakemake cannot see.

`code_digest` hashes the sources of the static import closure of some modules, within this repository's packages and
those of the modules themselves (a method may lie in another package). Editing a file changes the digest of exactly the
steps that import it, directly or not. A module that is loaded by name at run time (a method's, an extractor's) is not
seen: give it as an argument of its own. A module that reads data of its package (templates, style sheets) names their
folders in `PACKAGE_DATA`, relative to its own; their files belong to the closure.
seen: give it as an argument of its own. The digest is ours, since no library follows imports without running them.
"""

import ast
import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from qdit.core.errors import ConfigError
from qdit.core.modules import PACKAGES, module_file, parse_source
from qdit.core.repository import CHECKOUT


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection inside: syntax trees are many small objects without cycles, and torch's are scanned with
    them, which takes two thirds of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@cache
def imported_names(path: Path, source: bytes, package: str) -> frozenset[str]:
    """What a module of `package` imports, wherever the import stands; some names are no modules.

    `source` is the file's content, so that an edited file is read again. `from a import b` gives both a and a.b,
    since b may be a module.
    """
    names: set[str] = set()
    for node in statements(parse_source(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a tree, however deep. Imports are statements, so expressions are left out."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, field, None)
            waiting += below if isinstance(below, list) else []


DATA_CONSTANT = "PACKAGE_DATA"
"""Name of the module-level tuple of folders."""


def data_files(module_path: Path) -> list[Path]:
    """Files of the folders that a module names in `PACKAGE_DATA`, sorted; hidden files and subfolders do not count.

    Raises ConfigError if `PACKAGE_DATA` is not a tuple of texts, or a folder does not exist.
    """
    files = []
    for folder_name in _data_folders(module_path):
        folder = Path(os.path.normpath(module_path.parent / folder_name))
        if not folder.is_dir():
            raise ConfigError(f"{module_path}: {DATA_CONSTANT} names {folder_name!r}, no such folder; correct the name")
        files += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(files)


def _data_folders(module_path: Path) -> tuple[str, ...]:
    """The value of `PACKAGE_DATA` in a module's source; empty for a module without it."""
    for node in parse_source(module_path).body:
        if not isinstance(node, ast.Assign) or not any(
            isinstance(target, ast.Name) and target.id == DATA_CONSTANT for target in node.targets
        ):
            continue
        folders = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        texts = [folder.value for folder in folders if isinstance(folder, ast.Constant)]
        names = tuple(text for text in texts if isinstance(text, str))
        if not isinstance(node.value, ast.Tuple) or len(names) != len(folders):
            raise ConfigError(f"{module_path} line {node.lineno}: {DATA_CONSTANT} must be a tuple of texts; correct it")
        return names
    return ()


class Sources:
    """Files of modules, each read once: many digests of one moment cost little more than one.

    With `root` our own packages lie below it, otherwise where they are installed.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self.file_of = cache(lambda module: module_file(module, root))
        self.content_of = cache(Path.read_bytes)
        self.imports_of = cache(self._imports_of)
        self.data_of = cache(data_files)
        self.files = cache(self._files)
        self.digest = cache(self._digest)

    def _imports_of(self, module: str) -> frozenset[str]:
        """What a module imports, and the package it lies in."""
        path = self.file_of(module)
        if path is None:
            return frozenset()
        parent = module.rpartition(".")[0]
        package = module if path.name == "__init__.py" else parent
        return imported_names(path, self.content_of(path), package) | ({parent} if parent else set())

    def _files(self, *modules: str) -> dict[PurePosixPath, Path]:
        """The files that the modules reach by imports, and their data, by their path below the folder of their package.

        Raises ConfigError for a module that does not exist, a source that is no Python, or a wrong `PACKAGE_DATA`.
        """
        for module in modules:
            if self.file_of(module) is None:
                raise ConfigError(f"module {module!r}: no such file below {self.root or CHECKOUT}; check the name")
        packages = {*PACKAGES, *(module.partition(".")[0] for module in modules)}
        with no_collection():
            return self._closure(set(modules), packages)

    def _closure(self, waiting: set[str], packages: set[str]) -> dict[PurePosixPath, Path]:
        """The files that modules reach within these packages."""
        reached: set[str] = set()
        while waiting:
            reached |= waiting
            names = {name for module in waiting for name in self.imports_of(module)}
            waiting = {name for name in names if name.partition(".")[0] in packages} - reached
        files: dict[PurePosixPath, Path] = {}
        for module in reached:
            path = self.file_of(module)
            if path is None:
                continue
            name = PurePosixPath(*module.split("."))
            source = name / path.name if path.name == "__init__.py" else name.with_name(f"{name.name}.py")
            files[source] = path
            for data in self.data_of(path):
                files[PurePosixPath(os.path.normpath(source.parent / os.path.relpath(data, path.parent)))] = data
        return dict(sorted(files.items()))

    def _digest(self, *modules: str) -> str:
        digest = hashlib.sha256()
        for name, path in self.files(*modules).items():
            digest.update(f"{name}\0".encode())
            digest.update(self.content_of(path) + b"\0")
        return digest.hexdigest()


def import_closure(*modules: str, root: Path | None = None) -> list[Path]:
    """Files that the modules reach by imports now, the modules, their packages and their data included, sorted.

    Raises ConfigError for a module that does not exist, a source that is no Python, or a wrong `PACKAGE_DATA`.
    """
    return sorted(Sources(root).files(*modules).values())


def code_digest(*modules: str, root: Path | None = None) -> str:
    """sha256 over names and contents of the modules' import closure; ConfigError for a module that does not exist."""
    return Sources(root).digest(*modules)
