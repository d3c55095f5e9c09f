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
    """A backend for CPU tensors: `torch`, or a variant of the compiled library for one instruction set."""

    name: str
    library: ctypes.CDLL | None = None

    @property
    def variant(self) -> int:
        """Number of this variant in the compiled library."""
        return VARIANTS.index(self.name)


@cache
def forced() -> str:
    """Return the backend name in QDIT_KERNELS, or an empty text; ConfigError for an unknown name.

    The variable is read once, at the first use. `forcing` changes the result later.
    """
    name = os.environ.get(FORCE, "")
    if name not in ("", *FORCEABLE):
        raise ConfigError(f"{FORCE}={name}: allowed are {', '.join(FORCEABLE[:-1])} and {FORCEABLE[-1]}")
    return name


@contextmanager
def forcing(name: str) -> Iterator[None]:
    """Context manager: sets QDIT_KERNELS to a backend name while it is open, also for new processes."""
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
