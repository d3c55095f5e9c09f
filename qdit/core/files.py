"""Files: written whole or not at all, read without executing anything.

Every output goes to a temporary name in its own folder, is flushed, and is renamed when complete. Only JSON,
safetensors, npz without pickles, CSV and safe YAML are read. torch is imported only where tensors are read or
written: steps that know none start seconds sooner.
"""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from qdit.core.errors import CheckpointError, DataError, QditError

if TYPE_CHECKING:
    import torch

METADATA_KEY = "qdit"
"""The one metadata key of our safetensors files: with two or more the bytes differ at every save."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path beside `path`; renamed to it on success, removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no NaN, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted; NaN is refused."""
    write_text(path, canonical_json(value) + "\n")


def read_json(path: Path, *, error: type[QditError] = DataError) -> Any:
    """Read JSON; a missing or malformed file raises `error` with one clear line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file; check the path or run the step that makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{path}: not valid JSON ({problem}); make the file again") from None


def sha256_text(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a JSON value, independent of key order."""
    return sha256_text(json.dumps(value, sort_keys=True, allow_nan=False))


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def save_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Any = None) -> None:
    """Write tensors as safetensors, atomically; `metadata` is any JSON value."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, header)
        temporary.chmod(0o644)  # safetensors creates files that only their owner can read


def load_tensors(
    path: Path, *, sha256: str | None = None, error: type[QditError] = CheckpointError
) -> "tuple[dict[str, torch.Tensor], Any]":
    """Read a safetensors file: (tensors, metadata). With `sha256` the bytes are checked first.

    safetensors itself does not notice flipped bits in the data: give the digest from a manifest where there is one.
    """
    if not path.is_file():
        raise error(f"{path}: no such file; check the path or run the step that makes it")
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise error(
            f"{path}: sha256 is {found[:12]}…, expected {sha256[:12]}…: the file is damaged or another one;"
            " restore it or make it again"
        )
    try:
        with safe_open(path, framework="pt") as data:
            header = (data.metadata() or {}).get(METADATA_KEY)
            return {name: data.get_tensor(name) for name in data.keys()}, json.loads(header or "null")  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as problem:
        raise error(
            f"{path}: not a readable safetensors file ({problem}); found {path.stat().st_size} bytes;"
            " restore it or make it again (pickled weights are never opened here)"
        ) from None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an uncompressed npz atomically; equal arrays give equal bytes."""
    with atomic_path(path) as temporary, temporary.open("wb") as data:
        np.savez(data, allow_pickle=False, **dict(arrays))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an npz without ever unpickling."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path or run the step that makes it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as problem:
        raise DataError(f"{path}: not a readable npz without pickles ({problem}); make it again") from None


def require_finite(name: str, tensor: "torch.Tensor", *, error: type[QditError] = DataError) -> None:
    """Raise if a floating-point tensor holds NaN or infinity."""
    import torch

    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise error(f"{name}: {bad} of {math.prod(tensor.shape)} values are NaN or infinite; make it again")
