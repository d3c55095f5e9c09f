"""Names of the kernel backends, and the backend that QDIT_KERNELS forces."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from qdit.core.errors import ConfigError
from qdit.kernels.building import SOURCES as SOURCES

VARIANTS = ("scalar", "avx2", "avx-vnni", "avx512-vnni", "amx-int8", "neon-dotprod", "neon-i8mm")
"""In the order of the library's numbers; of those that run on one processor, slowest first."""


FORCE = "QDIT_KERNELS"


FORCEABLE = ("amx-int8", "avx512-vnni", "avx-vnni", "avx2", "neon-i8mm", "neon-dotprod", "scalar", "triton", "torch")


@dataclass(frozen=True)
class Backend:
    """A backend of CPUs: `torch` (without the library) or a variant of the compiled library."""

    name: str
    library: ctypes.CDLL | None = None

    @property
    def variant(self) -> int:
        """The library's number for this variant."""
        return VARIANTS.index(self.name)


@cache
def forced() -> str:
    """The backend that QDIT_KERNELS names, or an empty text; ConfigError for an unknown name.

    The variable is read once, at the first use. `forcing` changes it later.
    """
    name = os.environ.get(FORCE, "")
    if name not in ("", *FORCEABLE):
        raise ConfigError(f"{FORCE}={name}: allowed are {', '.join(FORCEABLE[:-1])} and {FORCEABLE[-1]}")
    return name


@contextmanager
def forcing(name: str) -> Iterator[None]:
    """Context manager: inside it, QDIT_KERNELS names a backend, also for new processes."""
    old = os.environ.get(FORCE)
    os.environ[FORCE] = name
    forced.cache_clear()
    try:
        yield
    finally:
        if old is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = old
        forced.cache_clear()
