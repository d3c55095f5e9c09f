"""Digest of code: what a result depends on but Snakemake cannot see, the modules its function imports.

`code_digest` hashes the sources of the static import closure of some modules, within this repository's packages.
Editing a file changes the digest of exactly the steps that import it, directly or not.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from qdit.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qdit", "baselines")


def module_file(module: str, root: Path = ROOT) -> Path | None:
    """Source file of one of our modules or packages, None if there is no such module."""
    base = root.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def direct_imports(path: Path) -> frozenset[str]:
    """Names that a source file imports from our packages, wherever the import stands; `from a import b` gives both."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.partition(".")[0] in PACKAGES)


def import_closure(*modules: str, root: Path = ROOT) -> list[Path]:
    """Source files that the modules reach by imports, and the packages they lie in, sorted."""
    found: set[Path] = set()
    waiting = list(modules)
    seen: set[str] = set()
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
        waiting += [*direct_imports(path), *(module.rpartition(".")[:1] if "." in module else ())]
        found.add(path)
    return sorted(found)


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """sha256 over names and sources of the modules' import closure; an unknown module raises ConfigError."""
    digest = hashlib.sha256()
    for path in import_closure(*modules, root=root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
