"""A distribution that offers a method, as pip would install it: a package, and metadata with an entry point."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qdit.methods.registry import load_registry
from qdit.workflow.method_index import method_index

METHOD = '''"""A method for a test."""

from dataclasses import dataclass

from baselines.rtn import Rtn, RtnOptions
from qdit_plugin_of_a_test.helper import SIZE


@dataclass(frozen=True)
class PlainOptions(RtnOptions):
    """Those of RTN, in groups."""

    group_size: int | None = SIZE
    """Input channels that share a scale."""


class Plain(Rtn):
    """RTN in groups, from another package."""

    name = "plain"
    printed = "Plain"
    Options = PlainOptions
'''
POINT = "[qdit.methods]\nplain = qdit_plugin_of_a_test.inner.plain:Plain\n"
METADATA = "Metadata-Version: 2.1\nName: qdit-plugin-of-a-test\nVersion: 1\n"
PACKAGE = "qdit_plugin_of_a_test"


def write_plugin(folder: Path, *, method: str = METHOD, point: str = POINT) -> Path:
    """The distribution in a folder; its package says so if anything imports it before it is asked for."""
    texts = {
        f"{PACKAGE}/__init__.py": "",
        f"{PACKAGE}/helper.py": "SIZE = 8\n",
        f"{PACKAGE}/inner/__init__.py": "",
        f"{PACKAGE}/inner/plain.py": method,
        f"{PACKAGE}-1.dist-info/METADATA": METADATA,
        f"{PACKAGE}-1.dist-info/entry_points.txt": point,
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside this context Python finds what lies in the folder, and methods are looked for anew."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        forget_methods()
        yield
    forget_methods()


def forget_methods() -> None:
    """Look for methods anew at the next question."""
    method_index.cache_clear()
    load_registry.cache_clear()
