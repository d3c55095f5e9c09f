"""Reading of npz files: completely or row by row, without pickles. Every size in a header is checked.

A file of reference images can be larger than memory, so its arrays can also be read as a stream. An array in an npz is
a *member*. Two checks come before memory is allocated. The size in an array's header must be the size of its member. A
member must not be larger than its compressed bytes can expand to.
"""

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from qdit.core.errors import DataError

SUFFIX = ".npy"
DEFLATE_RATIO = 1100
"""Deflate makes at most 1,032 bytes of one."""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Context manager: the opened zip archive of an npz. Every error while reading becomes a DataError of one line."""
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy about a header that is refused in one line below
            yield archive
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path or run the step that makes it") from None
    except Exception as problem:  # zipfile, zlib and numpy raise a dozen types for damaged files
        text = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{path}: not a readable npz without pickles ({text:.160}); make it or fetch it again"
        ) from None


def member_names(path: Path) -> list[str]:
    """Names of the arrays in an npz file."""
    with opened(path) as archive:
        return [name.removesuffix(SUFFIX) for name in archive.namelist() if name.endswith(SUFFIX)]


def read_members(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file by name."""
    with opened(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(SUFFIX)]
        return {name.removesuffix(SUFFIX): _read_array(archive, name) for name in names}


def read_member(path: Path, name: str) -> np.ndarray:
    """Read one array of an npz file, without reading the others; DataError if it is missing."""
    require_member(path, name)
    with opened(path) as archive:
        return _read_array(archive, name + SUFFIX)


def member_shape(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one array of an npz file, from its header; DataError if the array is missing."""
    require_member(path, name)
    with opened(path) as archive, archive.open(name + SUFFIX) as data:
        shape, _, dtype = _read_header(archive, name + SUFFIX, data)
        return shape, dtype


def stream_member(path: Path, name: str, *, rows: int) -> Iterator[np.ndarray]:
    """Yield `rows` rows at a time of one array of an npz file, in order. The last batch may be shorter."""
    require_member(path, name)
    with opened(path) as archive, archive.open(name + SUFFIX) as data:
        shape, fortran_order, dtype = _read_header(archive, name + SUFFIX, data)
        if not shape:
            raise ValueError(f"{name} is a single value, not rows")
        if fortran_order:  # its rows are scattered over the file
            whole = _read_array(archive, name + SUFFIX)
            yield from (whole[start : start + rows] for start in range(0, len(whole), rows))
            return
        size = math.prod(shape[1:]) * dtype.itemsize
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            yield np.frombuffer(data.read(count * size), dtype).reshape(count, *shape[1:])


def require_member(path: Path, name: str) -> None:
    """Raise DataError unless the file has an array of that name."""
    names = member_names(path)
    if name not in names:
        raise DataError(f"{path}: has no array {name!r}, found {', '.join(names) or 'none'}; use a file that has it")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as data:
        _read_header(archive, name, data)
    with archive.open(name) as data:
        return np.asarray(npy.read_array(data, allow_pickle=False))


def _read_header(archive: zipfile.ZipFile, name: str, data: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) of an .npy stream, left at its first value; ValueError if sizes do not agree."""
    version = npy.read_magic(data)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} has npy version {version}, allowed are 1.0 and 2.0")
    shape, fortran_order, dtype = read(data)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, allowed are numbers and text")
    claimed, info = math.prod(shape) * dtype.itemsize, archive.getinfo(name)
    present = info.file_size - data.tell()
    if claimed != present or info.file_size > DEFLATE_RATIO * (info.compress_size + 1):
        raise ValueError(f"{name} claims {claimed} bytes of {dtype} {shape}, the file holds {present}")
    return shape, fortran_order, dtype
