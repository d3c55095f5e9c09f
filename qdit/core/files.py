"""Reading and writing of files. A file is written completely or not at all; reading a file never executes code.

An output goes to a temporary name in its own folder, is written to the disk, and is renamed when it is complete. Only
JSON, safetensors, npz without pickles, CSV and safe YAML are read. Only functions for tensors import torch, so other
steps start seconds sooner.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from qdit.core.errors import CheckpointError, ConfigError, DataError, QditError
from qdit.core.npz import read_members

if TYPE_CHECKING:
    import torch

METADATA_KEY = "qdit"
"""The one metadata key of our safetensors files: with two or more the bytes differ at every save."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Context manager: a temporary path beside `path`. It is renamed to `path` on success and removed on failure.

    Raises ConfigError if `path` exists and is not a regular file (a folder, a device, a pipe). Raises OSError with the
    name `path` if the system cannot write it.
    """
    require_replaceable(path)
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except Exception as problem:
        if (refused := system_error(problem, temporary)) is None:
            raise
        raise OSError(refused.errno, os.strerror(refused.errno or 0), str(path)) from problem
    finally:
        with suppress(OSError):  # where the folder could not be made there is nothing to remove
            temporary.unlink(missing_ok=True)


def require_replaceable(path: Path) -> None:
    """Raise ConfigError unless `path` can become an output: it does not exist, or it is a regular file."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise ConfigError(f"{path}: is {kind}, the output is a file that replaces it; give the path of a file")


def system_error(problem: BaseException, temporary: Path) -> OSError | None:
    """The OSError for which the system did not write `temporary`; None if `problem` has another reason.

    A full disk appears in three ways: as an OSError without a file name in numpy, as an OSError behind a ValueError in
    zipfile, and as a text in safetensors.
    """
    behind: BaseException | None = problem
    while behind is not None:
        if isinstance(behind, OSError) and behind.filename in (None, str(temporary)) and behind.errno is not None:
            return behind
        if isinstance(behind, SafetensorError) and (number := re.search(r"os error (\d+)", str(behind))):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        behind = None if isinstance(behind, QditError) else behind.__cause__ or behind.__context__
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def canonical_json(value: Any) -> str:
    """JSON text of a value, with sorted keys. Equal values give equal text; NaN is an error."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with sorted keys, completely or not at all; NaN is an error."""
    write_text(path, canonical_json(value) + "\n")


def read_json(path: Path, *, error: type[QditError] = DataError) -> Any:
    """Read a JSON file; a missing or malformed file raises `error` with a message of one line."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file; check the path or run the step that makes it") from None
    except ValueError as problem:
        raise error(f"{path}: not valid JSON ({problem}); make the file again") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError for invalid JSON, for a key that occurs twice in one object, and for text that is nested too
    deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object_of)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of its pairs; ValueError for a key that is there twice, since one of its values would be dropped."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def sha256_text(text: str) -> str:
    """sha256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 of a JSON value, in hexadecimal digits. The order of keys does not matter."""
    return sha256_text(json.dumps(value, sort_keys=True, allow_nan=False))


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def save_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Any = None) -> None:
    """Write tensors as a safetensors file, completely or not at all. `metadata`, any JSON value, goes into the file."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, header)
        temporary.chmod(0o644)  # safetensors creates files that only their owner can read


def load_tensors(
    path: Path, *, sha256: str | None = None, error: type[QditError] = CheckpointError
) -> "tuple[dict[str, torch.Tensor], Any]":
    """Read a safetensors file and return (tensors, metadata). With `sha256` the digest of the file is checked first.

    The safetensors library does not notice flipped bits in the data. So give the digest from a manifest if there is
    one.
    """
    if not path.is_file():
        raise error(f"{path}: no such file; check the path or run the step that makes it")
    if sha256 is not None and (digest := sha256_file(path)) != sha256:
        raise error(
            f"{path}: sha256 is {digest[:12]}…, expected {sha256[:12]}…: the file is damaged or another one;"
            " restore it or make it again"
        )
    try:
        with safe_open(path, framework="pt") as data:
            header = (data.metadata() or {}).get(METADATA_KEY)
            return {name: data.get_tensor(name) for name in data.keys()}, parse_json(header or "null")  # noqa: SIM118
    except Exception as problem:  # besides its own error safetensors passes on those of torch and of the system
        raise error(
            f"{path}: not a readable safetensors file ({one_line(problem)}); found {path.stat().st_size} bytes;"
            " restore it or make it again (pickled weights are never opened here)"
        ) from None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as an uncompressed npz, completely or not at all. Equal arrays give equal bytes."""
    with atomic_path(path) as temporary, temporary.open("wb") as data:
        np.savez(data, allow_pickle=False, **dict(arrays))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz without pickles; DataError for a file that is not a complete npz."""
    return read_members(path)


def one_line(problem: object, limit: int = 160) -> str:
    """The text of another library's error as one line of at most `limit` characters, without terminal escape codes."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(problem)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def require_finite(name: str, tensor: "torch.Tensor", *, error: type[QditError] = DataError) -> None:
    """Raise `error` if a floating-point tensor holds NaN or infinity. `name` stands for the tensor in the message."""
    import torch

    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise error(f"{name}: {bad} of {math.prod(tensor.shape)} values are NaN or infinite; make it again")
