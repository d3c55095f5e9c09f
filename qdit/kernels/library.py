"""The compiled library: built once per user, opened with ctypes, tested, refused where it disagrees.

Nothing happens at import. The first call builds `csrc/` with the compiler that is there (`c++`, `g++`, `clang++`, else
the `ziglang` package) into a folder of the user's cache whose name is the digest of sources, compiler and flags.
Without a compiler the torch reference computes everything, and one line of the log says so.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qdit.errors import ConfigError

LOG = logging.getLogger(__name__)
SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-g0", "-fvisibility=hidden", "-pthread", "-w")
EXACT = ("-ffp-contract=off", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-fno-sanitize=undefined")
"""Flags without which results would depend on the compiler."""

VARIANTS = ("scalar", "avx2", "avx512-vnni")
"""In the order of the library's numbers, slowest first."""

VERSION = 1
FORCE = "QDIT_KERNELS"


class BuildError(Exception):
    """The library could not be built or opened, or is not right; the reason is one line."""


@dataclass(frozen=True)
class Backend:
    """What runs: `torch` (then there is no library) or a variant of the library."""

    name: str
    library: ctypes.CDLL | None = None

    @property
    def variant(self) -> int:
        """The library's number for this variant."""
        return VARIANTS.index(self.name)


def backend() -> Backend:
    """The backend for CPU tensors: the fastest that is available, or the one that QDIT_KERNELS names.

    Raises ConfigError if that one is not available.
    """
    return select(os.environ.get(FORCE, ""))


def backend_name() -> str:
    """`avx512-vnni`, `avx2`, `scalar` or `torch`."""
    return backend().name


def available() -> tuple[str, ...]:
    """Names of all backends that run here, fastest first; the last is always `torch`."""
    library = _library()
    if isinstance(library, str):
        return ("torch",)
    return (*(name for name in reversed(VARIANTS) if _runs(library, name)), "torch")


@cache
def select(forced: str) -> Backend:
    """The backend of a name, or the fastest for an empty one."""
    if forced not in ("", "torch", *VARIANTS):
        raise ConfigError(f"{FORCE}={forced}: allowed are {', '.join(reversed(VARIANTS))} and torch")
    if forced == "torch":
        return Backend("torch")
    library = _library()
    if isinstance(library, str):
        if forced:
            raise ConfigError(f"{FORCE}={forced} is not available: {library}; unset it or use torch")
        LOG.warning("quantized kernels run in plain torch, which is slow: %s", library)
        return Backend("torch")
    names = available()
    if forced and forced not in names:
        raise ConfigError(f"{FORCE}={forced} is not available on this processor: here run {', '.join(names)}")
    return Backend(forced or names[0], library)


@cache
def _library() -> ctypes.CDLL | str:
    """The library, built if it must be and tested, or the reason why there is none."""
    try:
        return load(SOURCES, cache_folder())
    except BuildError as problem:
        return str(problem)


def load(sources: Path, folder: Path) -> ctypes.CDLL:
    """Build `sources` below `folder` unless that was done, open and test the library; raises BuildError."""
    from qdit.kernels.selftest import disagreement

    path = build(sources, folder)
    library = open_library(path)
    for name in (name for name in VARIANTS if _runs(library, name)):
        problem = disagreement(Backend(name, library))
        if problem is not None:
            raise BuildError(f"{path} gives wrong numbers ({name}: {problem}); delete it, or report the compiler")
    return library


def open_library(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions; raises BuildError if it is not one of ours."""
    try:
        library = ctypes.CDLL(str(path))
        library.qdit_version.restype = library.qdit_variants.restype = ctypes.c_int
        version = library.qdit_version()
    except (OSError, AttributeError) as problem:
        raise BuildError(f"{path} cannot be opened ({problem})") from problem
    if version != VERSION:
        raise BuildError(f"{path} has version {version}, needed is {VERSION}; delete it")
    integer, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    library.qdit_grouped_linear.argtypes = [
        *(integer, pointer, size, size, size, size, integer),
        *(pointer, pointer, pointer, pointer, pointer, pointer),
        *(integer, integer, integer, pointer),
    ]
    library.qdit_quantize_groups.argtypes = [
        *(integer, pointer, size, size, size, integer, integer),
        *(pointer, pointer, pointer),
    ]
    library.qdit_fake_quantize_groups.argtypes = [
        *(integer, pointer, size, size, size, integer, integer, integer, pointer)
    ]
    library.qdit_fake_quantize_static.argtypes = [
        *(integer, pointer, size, size, size, pointer, pointer, integer, integer, pointer)
    ]
    return library


def build(sources: Path, folder: Path) -> Path:
    """The library of `sources`, compiled unless it lies in `folder` whole; raises BuildError."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler (c++, g++, clang++ or the Python package ziglang) was found")
    files = sorted(sources.glob("*.cpp"))
    path = folder / f"qdit-{_key(sources, compiler)}.so"
    seal = path.with_suffix(".sha256")
    try:
        if path.is_file() and seal.is_file() and seal.read_text() == _sha256(path):
            return path
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            _compile([*compiler, *FLAGS, *EXACT, "-o", str(made), *map(str, files)])
            (Path(scratch) / seal.name).write_text(_sha256(made))
            os.replace(Path(scratch) / seal.name, seal)
            os.replace(made, path)
    except OSError as problem:
        raise BuildError(f"the kernels cannot be built in {folder} ({problem})") from problem
    return path


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler, or None."""
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found is not None:
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]  # its default is the processor at hand
    return None


def cache_folder() -> Path:
    """Where built libraries are kept: `$XDG_CACHE_HOME/qdit/kernels`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qdit" / "kernels"


def _compile(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as problem:
        raise BuildError(f"{command[0]} took more than {problem.timeout:.0f} s") from problem
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        raise BuildError(f"{command[0]} failed: {first}")


@cache
def _compiler_version(compiler: tuple[str, ...]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=600).stdout


def _key(sources: Path, compiler: list[str]) -> str:
    """Digest of everything that decides what is built."""
    digest = hashlib.sha256()
    about = [*compiler, _compiler_version(tuple(compiler)), *FLAGS, *EXACT, platform.machine(), sys.platform]
    digest.update("\0".join(about).encode())
    for file in sorted([*sources.glob("*.cpp"), *sources.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _runs(library: ctypes.CDLL, name: str) -> bool:
    return bool(library.qdit_variants() >> VARIANTS.index(name) & 1)
