"""Single members of npz files, whole or as a stream of rows: a reference batch may be larger than memory."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from qdit.core.errors import DataError


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip archive; whatever goes wrong while reading it is a DataError with one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path or run the step that makes it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise DataError(f"{path}: not a readable npz without pickles ({problem}); make it or fetch it again") from None


def member_names(path: Path) -> list[str]:
    """Names of the arrays in the file."""
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_member(path: Path, name: str) -> np.ndarray:
    """One array, without reading the others; never unpickles."""
    _require_member(path, name)
    with _opened(path) as archive, archive.open(f"{name}.npy") as data:
        return npy.read_array(data, allow_pickle=False)


def stream_member(path: Path, name: str, *, rows: int) -> Iterator[np.ndarray]:
    """The array's rows in batches of `rows`, read one after the other; the last batch may be shorter."""
    _require_member(path, name)
    with _opened(path) as archive, archive.open(f"{name}.npy") as data:
        shape, dtype = _read_header(data)
        size = math.prod(shape[1:]) * dtype.itemsize
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            block = data.read(count * size)
            if len(block) != count * size:
                raise ValueError(f"{name} ends after {start + len(block) // size} of {shape[0]} rows")
            yield np.frombuffer(block, dtype).reshape(count, *shape[1:])


def _require_member(path: Path, name: str) -> None:
    names = member_names(path)
    if name not in names:
        raise DataError(f"{path}: has no array {name!r}, found {', '.join(names)}; use a file that has it")


def _read_header(data: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an .npy stream, which is left at its first value."""
    version = npy.read_magic(data)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"npy version {version}, allowed are 1.0 and 2.0")
    shape, fortran_order, dtype = read(data)
    if fortran_order or dtype.hasobject or not shape:
        raise ValueError(f"array of {dtype}, shape {shape}, Fortran order {fortran_order} cannot be streamed")
    return shape, dtype
