"""Digest of code: one hash over the sources of all modules that a step imports, because Snakemake does not see them.

`code_digest` hashes the sources that some modules import, directly or indirectly. It follows imports within this
repository's packages and within the packages of the modules, because a method may lie in another package. So an edit of
a file changes the digest of exactly the steps that import it. A module that is loaded by name at run time (a method, an
extractor) is not seen; the caller must name it. A module that reads data files (templates, style sheets) names their
folders in `PACKAGE_DATA`, relative to its own folder; these files count too. `qdit.core.source_facts` keeps a list of
the imports of each source, found by the content of the source.

The digest is our own code, because no library follows imports without running them.
"""

import hashlib
import os
from functools import cache
from pathlib import Path, PurePosixPath

from qdit.core.errors import ConfigError
from qdit.core.modules import PACKAGES, module_file
from qdit.core.repository import CHECKOUT
from qdit.core.source_facts import DATA_CONSTANT, SourceFacts, remember, source_facts


def data_files(module_path: Path, folder_names: tuple[str, ...]) -> list[Path]:
    """Sorted files of the folders that a module names in its `PACKAGE_DATA`, without hidden files and subfolders.

    Raises ConfigError if a folder does not exist.
    """
    files = []
    for folder_name in folder_names:
        folder = Path(os.path.normpath(module_path.parent / folder_name))
        if not folder.is_dir():
            raise ConfigError(f"{module_path}: {DATA_CONSTANT} names {folder_name!r}, no such folder; correct the name")
        files += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(files)


class Sources:
    """Reader of the source files of modules. It reads each file once, so further digests cost little.

    With `root` our own packages lie below this folder; otherwise they lie where they are installed.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self.file_of = cache(lambda module: module_file(module, root))
        self.content_of = cache(Path.read_bytes)
        self.imports_of = cache(self._imports_of)
        self.facts_of = cache(self._facts_of)
        self.data_of = cache(lambda path: data_files(path, self.facts_of(path).data_folders))
        self.files = cache(self._files)
        self.digest = cache(self._digest)

    def _imports_of(self, module: str) -> frozenset[str]:
        """What a module imports, and the package it lies in."""
        path = self.file_of(module)
        if path is None:
            return frozenset()
        parent = module.rpartition(".")[0]
        package = module if path.name == "__init__.py" else parent
        return self.facts_of(path).imported_names(package) | ({parent} if parent else set())

    def _facts_of(self, path: Path) -> SourceFacts:
        return source_facts(path, self.content_of(path))

    def _files(self, *modules: str) -> dict[PurePosixPath, Path]:
        """The files that the modules reach by imports, and their data, by their path below the folder of their package.

        Raises ConfigError for a module that does not exist, a source that is not Python, or a wrong `PACKAGE_DATA`.
        """
        for module in modules:
            if self.file_of(module) is None:
                raise ConfigError(f"module {module!r}: no such file below {self.root or CHECKOUT}; check the name")
        packages = {*PACKAGES, *(module.partition(".")[0] for module in modules)}
        reached: set[str] = set()
        waiting = set(modules)
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
        remember()
        return dict(sorted(files.items()))

    def _digest(self, *modules: str) -> str:
        digest = hashlib.sha256()
        for name, path in self.files(*modules).items():
            digest.update(f"{name}\0".encode())
            digest.update(self.content_of(path) + b"\0")
        return digest.hexdigest()


def import_closure(*modules: str, root: Path | None = None) -> list[Path]:
    """Sorted files that the modules import, directly or indirectly. They include the modules and their data files.

    Raises ConfigError for a module that does not exist, a source with a syntax error, or a wrong `PACKAGE_DATA`.
    """
    return sorted(Sources(root).files(*modules).values())


def code_digest(*modules: str, root: Path | None = None) -> str:
    """Sha256 over names and contents of all files that the modules import, directly or indirectly, and of the modules.

    Raises ConfigError as `import_closure` does.
    """
    return Sources(root).digest(*modules)
