"""Digest of code: what a result depends on but Snakemake cannot see, the modules that a step imports.

`code_digest` hashes the sources of the static import closure of some modules, within this repository's packages and
those of the modules themselves (a method may lie in another package). Editing a file changes the digest of exactly the
steps that import it, directly or not. A module that is loaded by name at run time (a method's) is not seen: give it as
an argument of its own.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path, PurePosixPath

from qdit.core.errors import ConfigError
from qdit.core.modules import PACKAGES, module_file, parse_source
from qdit.core.repository import ROOT


@cache
def imported_names(path: Path, source: bytes, package: str) -> frozenset[str]:
    """What a module of `package` imports, wherever the import stands; some names are no modules.

    `source` is the file's content, so that an edited file is read again. `from a import b` gives both a and a.b,
    since b may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(parse_source(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def sources(*modules: str, root: Path = ROOT) -> dict[PurePosixPath, Path]:
    """The files that `import_closure` finds, by their place below `root` or below the folder of their package."""
    packages = {*PACKAGES, *(module.partition(".")[0] for module in modules)}
    reached: dict[PurePosixPath, Path] = {}
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
        is_package = path.name == "__init__.py"
        place = PurePosixPath(*module.split("."))
        reached[place / "__init__.py" if is_package else place.with_name(f"{place.name}.py")] = path
        parent = module.rpartition(".")[0]
        names = imported_names(path, path.read_bytes(), module if is_package else parent)
        waiting += [name for name in names if name.partition(".")[0] in packages]
        waiting += [parent] if parent else []
    return reached


def import_closure(*modules: str, root: Path = ROOT) -> list[Path]:
    """Source files that the modules reach by imports, the modules and the packages they lie in included, sorted.

    Raises ConfigError for a module that does not exist, or a source that is no Python.
    """
    return sorted(sources(*modules, root=root).values())


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """sha256 over names and sources of the modules' import closure; ConfigError for a module that does not exist."""
    digest = hashlib.sha256()
    for place, path in sorted(sources(*modules, root=root).items()):
        digest.update(f"{place}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
