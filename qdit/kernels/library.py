"""The compiled library: it is found or built, opened with ctypes, tested, and refused if its results are wrong.

An import does nothing. The first call takes an existing library or builds one (`qdit.kernels.building`). A library is
tested once on each kind of processor; a file beside it records that it passed. Without a library the torch reference
computes everything, and one line of the log says this.
"""

import ctypes
import hashlib
import logging
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qdit.core.errors import ConfigError
from qdit.core.files import write_text
from qdit.kernels.backend import FORCE, FORCEABLE, VARIANTS, Backend, forced
from qdit.kernels.building import SHIPPED, BuildError, Built, build, cache_folder, find
from qdit.kernels.building import SOURCES as SOURCES

LOG = logging.getLogger(__name__)


NEEDS = {
    "avx2": ("x86_64", "AVX2 and FMA"),
    "avx-vnni": ("x86_64", "AVX-VNNI"),
    "avx512-vnni": ("x86_64", "AVX-512 with VNNI"),
    "amx-int8": ("x86_64", "AMX-INT8, or the kernel does not permit it"),
    "neon-dotprod": ("aarch64", "the dot product (FEAT_DotProd)"),
    "neon-i8mm": ("aarch64", "8-bit matrix products (FEAT_I8MM)"),
}
"""Machine and feature without which a variant does not run."""

VERSION = 6


@dataclass(frozen=True)
class Loaded:
    """An open library that passed the self-test, and the path of its file."""

    library: ctypes.CDLL
    built: Built


def backend() -> Backend:
    """Return the backend for CPU tensors: the fastest that is available, or the one that QDIT_KERNELS names.

    Raises ConfigError if the backend that QDIT_KERNELS names is not available.
    """
    return select(forced())


def backend_name(device: str = "cpu") -> str:
    """Return the name of the backend for tensors of a device: `avx512-vnni`, …, `scalar`, `triton` or `torch`."""
    if device.partition(":")[0] != "cuda":
        return backend().name
    from qdit.kernels.triton_backend import usable

    return "triton" if usable(device) else "torch"


def available() -> tuple[str, ...]:
    """List the names of all backends that run on this processor, fastest first; the last is always `torch`."""
    loaded = _library()
    return ("torch",) if isinstance(loaded, str) else (*variants_of(loaded), "torch")


def variants_of(loaded: Loaded) -> tuple[str, ...]:
    """List the names of a library's variants that run on this processor, fastest first."""
    return tuple(name for name in reversed(VARIANTS) if _runs(loaded.library, name))


@cache
def select(name: str) -> Backend:
    """Return the backend of this name; the fastest one for an empty name and for `triton`, which is only for GPUs."""
    if name not in ("", *FORCEABLE):
        raise ConfigError(f"{FORCE}={name}: allowed are {', '.join(FORCEABLE[:-1])} and {FORCEABLE[-1]}")
    if name == "torch":
        return Backend("torch")
    name = "" if name == "triton" else name
    loaded = _library()
    if isinstance(loaded, str):
        if name:
            raise ConfigError(f"{FORCE}={name} is not available: {loaded}; unset it or use torch")
        LOG.warning("quantized kernels run in plain torch, which is slow: %s", loaded)
        return Backend("torch")
    names = available()
    if name and name not in names:
        raise ConfigError(f"{FORCE}={name} is not available on this processor: here run {', '.join(names)}")
    LOG.info("quantized kernels run as %s from %s", name or names[0], loaded.built.path)
    return Backend(name or names[0], loaded.library)


def loaded() -> Loaded | str:
    """Return the library in use, or the reason why there is none."""
    return _library()


@cache
def _library() -> Loaded | str:
    try:
        try:
            folder = cache_folder()
        except BuildError:
            folder = SHIPPED  # nothing else can be looked into; building there says why not
        return load(SOURCES, SHIPPED, folder)
    except BuildError as problem:
        return str(problem)


def load(sources: Path, *folders: Path) -> Loaded:
    """Open the library of `sources` from one of the folders. If none has it, build it in the last folder.

    Raises BuildError.
    """
    built = find(sources, *folders) or build(sources, folders[-1])
    library = open_library(built.path)
    stamp = folders[-1] / "tested" / f"{built.sha256[:24]}-{_circumstances()}"
    if not stamp.is_file():
        names = [name for name in VARIANTS if _runs(library, name)]
        _test(library, names, built.path)
        with suppress(OSError):  # a folder that cannot be written: every process tests for itself
            write_text(stamp, " ".join(names) + "\n")
    return Loaded(library, built)


def _test(library: ctypes.CDLL, names: list[str], path: Path) -> None:
    """Raise BuildError unless each variant gives the results of the reference."""
    from qdit.kernels.selftest import disagreement

    for name in names:
        problem = disagreement(Backend(name, library))
        if problem is not None:
            raise BuildError(
                f"{path} gives wrong numbers ({name}: {problem}); delete it and call `qdit kernels build`,"
                " or report the compiler"
            )


def open_library(path: Path) -> ctypes.CDLL:
    """Open a library and declare its functions; BuildError for a file that is not a library of this suite."""
    try:
        library = ctypes.CDLL(str(path))
        library.qdit_version.restype = library.qdit_variants.restype = ctypes.c_int
        version = library.qdit_version()
    except (OSError, AttributeError) as problem:
        raise BuildError(f"{path} cannot be opened ({problem}); call `qdit kernels build --again`") from problem
    if version != VERSION:
        raise BuildError(f"{path} has version {version}, needed is {VERSION}; delete it")
    declare_linear(library)
    _declare_learning(library)
    integer, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    library.qdit_norm_modulate.argtypes = [
        *(integer, pointer, size, size, size),
        *(pointer, size, pointer, size, ctypes.c_float, pointer),
    ]
    library.qdit_norm_modulate.restype = None
    library.qdit_attention.argtypes = [integer, pointer, size, size, size, size, ctypes.c_float, pointer]
    library.qdit_attention.restype = None
    library.qdit_attention_limit.restype = size
    return library


def declare_linear(library: ctypes.CDLL) -> None:
    """Declare argument types of the functions that `qdit.kernels.compiled` calls."""
    integer, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    library.qdit_grouped_linear.argtypes = [
        *(integer, pointer, size, size, size, size, integer),
        *(pointer, pointer, pointer, pointer, pointer, pointer),
        *(size, pointer, pointer, integer, integer),
        *(size, pointer, size, pointer, pointer, integer, pointer),
    ]
    library.qdit_transform.argtypes = [integer, pointer, size, size, size, pointer, pointer]
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


def _declare_learning(library: ctypes.CDLL) -> None:
    """Types of the functions that `qdit.kernels.learning` calls."""
    integer, size, pointer, number = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    library.qdit_rounding_step.argtypes = [integer, size, *[pointer] * 8, *[number] * 4]
    library.qdit_rounding_step.restype = size
    library.qdit_rounding_keep_open.argtypes = [size, *[pointer] * 7]
    library.qdit_rounding_keep_open.restype = size
    library.qdit_on_grid.argtypes = [integer, size, pointer, *[number] * 3, pointer]
    library.qdit_through_grid.argtypes = [integer, size, pointer, pointer, *[number] * 3, pointer]
    library.qdit_through_grid.restype = ctypes.c_double
    library.qdit_gelu.argtypes = [integer, size, pointer, pointer, pointer]
    library.qdit_on_grid.restype = library.qdit_gelu.restype = None
    library.qdit_lowest_error.argtypes = [integer, *[size] * 3, *[pointer] * 3, *[number] * 2, size, *[pointer] * 3]
    library.qdit_lowest_error.restype = None
    library.qdit_block_pass.argtypes = [integer, integer, pointer]
    library.qdit_block_pass.restype = None
    library.qdit_block_bytes.restype = size


def _runs(library: ctypes.CDLL, name: str) -> bool:
    return bool(library.qdit_variants() >> VARIANTS.index(name) & 1)


@cache
def _circumstances() -> str:
    """Digest of the processor and of the test. If one of them changes, a library is tested again."""
    digest = hashlib.sha256(Path(__file__).with_name("selftest.py").read_bytes())
    digest.update(platform.machine().encode())
    with suppress(OSError), Path("/proc/cpuinfo").open("rb") as info:
        of_all = (b"model name", b"stepping", b"microcode", b"flags", b"CPU ", b"Features")
        first = info.read(8192).partition(b"\n\n")[0]  # the first of many processors
        digest.update(b"\n".join(line for line in first.splitlines() if line.startswith(of_all)))
    return digest.hexdigest()[:24]
