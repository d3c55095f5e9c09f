"""Modules that take seconds to import, for test files that every process of pytest-xdist collects and one runs."""

import importlib
from typing import Any


class LazyModule:
    """Stands for a module, which is imported when an attribute is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks every global of a test file for some of its own
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
