"""Building of the kernels: a C++ compiler turns `csrc/` into a library, whose digest is stored and checked.

The name of a library is the digest of sources, flags, machine and C library. The compiler does not change the name. So
a machine without a compiler can use a library from the installation, or from a computer of the same kind.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
SHIPPED = Path(__file__).parent / "built"
"""Where `pip install` puts a library (setup.py)."""

FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-g0", "-fvisibility=hidden", "-pthread", "-w")
EXACT = ("-ffp-contract=off", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-fno-sanitize=undefined")
"""Flags without which results would depend on the compiler."""


class BuildError(Exception):
    """Error: the library could not be built or opened, or its digest is wrong. The reason is one line."""


@dataclass(frozen=True)
class Built:
    """A library file whose digest is the one that was stored when it was built."""

    path: Path
    sha256: str
    compiler: str


def cache_folder() -> Path:
    """Return the folder of built libraries: `$XDG_CACHE_HOME/qdit/kernels`, by default below ~/.cache."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qdit" / "kernels"
    except RuntimeError as problem:  # a user without a home
        raise BuildError(f"there is no folder for the library ({problem}); set XDG_CACHE_HOME") from problem


def find_compiler() -> list[str] | None:
    """Return the command of a C++ compiler or None. It tries $CXX, c++, g++, clang++, then the package ziglang."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in ([named] if named else []) + [["c++"], ["g++"], ["clang++"]]:
        program = shutil.which(command[0])
        if program is not None:
            return [program, *command[1:]]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]  # its default is the processor at hand
    return None


def find(sources: Path, *folders: Path) -> Built | None:
    """Return the first library of `sources` in the folders whose digest is correct; None without one."""
    name = f"qdit-{_key(sources)}"
    for folder in folders:
        with suppress(OSError, ValueError, KeyError, TypeError):
            seal = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            path = folder / f"{name}.so"
            if hashlib.sha256(path.read_bytes()).hexdigest() == seal["sha256"]:
                return Built(path, seal["sha256"], str(seal["compiler"]))
    return None


def build(sources: Path, folder: Path, *, again: bool = False) -> Built:
    """Build the library of `sources` in `folder` if it is not there yet, or always with `again`. Raises BuildError.

    If several processes call this function at the same time, one process compiles and the others wait.
    """
    built = None if again else find(sources, folder)
    if built is not None:
        return built
    from filelock import FileLock  # few processes build

    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler (c++, g++, clang++ or the Python package ziglang) was found")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(folder / ".lock"):
            built = None if again else find(sources, folder)
            return built or _make(compiler, sources, folder)
    except OSError as problem:
        raise BuildError(f"the kernels cannot be built in {folder} ({problem})") from problem


def _make(compiler: list[str], sources: Path, folder: Path) -> Built:
    name = f"qdit-{_key(sources)}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        library, seal = Path(scratch) / f"{name}.so", Path(scratch) / f"{name}.json"
        command = [*compiler, *FLAGS, *EXACT, "-o", str(library), *map(str, sorted(sources.glob("*.cpp")))]
        _run(command)
        about = {"sha256": hashlib.sha256(library.read_bytes()).hexdigest(), "compiler": _version(compiler)}
        seal.write_text(json.dumps(about, indent=1), encoding="utf-8")
        # The seal first: until the library follows, it fits none, and `find` says no.
        os.replace(seal, folder / seal.name)
        os.replace(library, folder / library.name)
    return Built(folder / library.name, about["sha256"], about["compiler"])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as problem:
        raise BuildError(f"{command[0]} took more than {problem.timeout:.0f} s") from problem
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        raise BuildError(f"{command[0]} failed: {' '.join(first.split())}")


def _version(compiler: Sequence[str]) -> str:
    """First line of the compiler's version text."""
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=600).stdout
    return said.partition("\n")[0].strip() or compiler[0]


def _key(sources: Path) -> str:
    """Digest of sources, flags, machine and C library: a library with this digest can be used here."""
    digest = hashlib.sha256()
    about = [*FLAGS, *EXACT, platform.machine(), sys.platform, *platform.libc_ver()]
    digest.update("\0".join(about).encode())
    for file in sorted([*sources.glob("*.cpp"), *sources.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:24]
