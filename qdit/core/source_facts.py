"""What a code digest needs to know of a Python source: its imports and its data folders.

A source is parsed once. A cache file in the user's cache folder keeps the answer for later processes.

The answer depends on the content of the source alone. The key of an entry is the sha256 of the content. An edited
source has another key, so no entry can be out of date. A new version of this module or of Python begins a new cache
file. The cache file has a checksum and is always replaced as a whole. If two processes write at the same time, entries
can be lost; those sources are parsed again.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from qdit.core.errors import ConfigError, QditError
from qdit.core.files import canonical_json, parse_json, sha256_text, write_text
from qdit.core.modules import decoded_source, syntax_tree

DATA_CONSTANT = "PACKAGE_DATA"
"""Name of the module-level tuple of folders."""

MOST_ENTRIES = 5000
"""Entries of the file; where it would grow beyond this, only those of the present process stay."""

VERSION = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:16]
"""What the entries depend on beside the content."""


@dataclass(frozen=True)
class SourceFacts:
    """The imports and data folders of one Python source.

    `imports` holds (level, module, names) of every import statement, also inside functions. `import a.b` is (0, "a.b",
    ()). `data_folders` is the value of `PACKAGE_DATA`.
    """

    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    data_folders: tuple[str, ...]

    def imported_names(self, package: str) -> frozenset[str]:
        """All names that the source may import as modules, if it is a module of `package`. Some of them are no modules.

        `from a import b` gives both a and a.b, because b can be a module.
        """
        names: set[str] = set()
        for level, module, members in self.imports:
            parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*parents, *([module] if module else [])])
            names |= {base, *(f"{base}.{member}" for member in members)}
        return frozenset(names)


def source_facts(path: Path, content: bytes) -> SourceFacts:
    """Imports and data folders of the source with this content. `path` is used in messages only.

    Raises ConfigError if the source is not valid Python or its `PACKAGE_DATA` is wrong. Such a source is not cached.
    """
    key = hashlib.sha256(content).hexdigest()
    if (facts := _session().get(key) or _remembered().get(key)) is None:
        facts = parsed_facts(syntax_tree(decoded_source(path, content), path), path)
        _unsaved().add(key)
    _session()[key] = facts
    return facts


def parsed_facts(tree: ast.Module, path: Path) -> SourceFacts:
    """Imports and data folders of the source with this syntax tree. ConfigError for a wrong `PACKAGE_DATA`."""
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return SourceFacts(tuple(dict.fromkeys(imports)), _data_folders(tree, path))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements of a tree; an import is one, so expressions need not be walked."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, block, ())
            waiting += children if isinstance(children, list) else ()  # the body of a lambda is one expression


def _data_folders(tree: ast.Module, path: Path) -> tuple[str, ...]:
    """The value of `PACKAGE_DATA` in a module's source; empty for a module without it."""
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not any(
            isinstance(target, ast.Name) and target.id == DATA_CONSTANT for target in node.targets
        ):
            continue
        folders = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        texts = [folder.value for folder in folders if isinstance(folder, ast.Constant)]
        names = tuple(text for text in texts if isinstance(text, str))
        if not isinstance(node.value, ast.Tuple) or len(names) != len(folders):
            raise ConfigError(f"{path} line {node.lineno}: {DATA_CONSTANT} must be a tuple of texts; correct it")
        return names
    return ()


def remember() -> None:
    """Add the facts that this process has found to the cache file. An error in writing the file is ignored."""
    if not _unsaved() or (path := cache_file()) is None:
        return
    entries = read_entries(path) | _session()
    if len(entries) > MOST_ENTRIES:
        entries = _session()
    text = canonical_json({key: asdict(facts) for key, facts in entries.items()})
    with suppress(OSError, QditError):
        write_text(path, f"{sha256_text(text)}\n{text}")
    _unsaved().clear()


def read_entries(path: Path) -> dict[str, SourceFacts]:
    """Entries of a cache file. Empty if the file is missing, damaged or was not written by this module."""
    try:
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
        if checksum != sha256_text(text):
            return {}
        return {
            key: SourceFacts(
                tuple((level, module, tuple(names)) for level, module, names in entry["imports"]),
                tuple(entry["data_folders"]),
            )
            for key, entry in parse_json(text).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def cache_file() -> Path | None:
    """Path of the cache file for this version: in `$XDG_CACHE_HOME/qdit`, by default ~/.cache/qdit.

    None if the user has no home folder.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qdit"
    except RuntimeError:
        return None
    return folder / f"imports-{VERSION}.json"


@cache
def _session() -> dict[str, SourceFacts]:
    """Facts that this process needed, by the sha256 of the content."""
    return {}


@cache
def _unsaved() -> set[str]:
    """Keys of facts that this process parsed and did not write."""
    return set()


@cache
def _remembered() -> dict[str, SourceFacts]:
    """The file's entries when the process first needs one."""
    path = cache_file()
    return {} if path is None else read_entries(path)
