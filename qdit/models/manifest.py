"""Manifest of a folder of weights: size, sha256 and tensors of every file. It is checked before a file is used.

`manifest.json` is {"files": {name: {"bytes", "sha256", "tensors": {tensor: [dtype, shape]}}}}. The safetensors library
notices a truncated file but not a flipped bit; the manifest notices both.
"""

from pathlib import Path
from typing import Any

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, read_json, sha256_file, write_json

MANIFEST = "manifest.json"


def describe(path: Path) -> dict[str, Any]:
    """Manifest entry of one safetensors file."""
    tensors, _ = load_tensors(path)
    return {
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "tensors": {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in sorted(tensors.items())},
    }


def write_manifest(folder: Path) -> Path:
    """Write the manifest.json of a folder, with an entry for each of its safetensors files. Return its path."""
    path = folder / MANIFEST
    write_json(path, {"files": {file.name: describe(file) for file in sorted(folder.glob("*.safetensors"))}})
    return path


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the manifest of a folder: file name → entry. CheckpointError if the file is missing or is no manifest."""
    path = folder / MANIFEST
    content = read_json(path, error=CheckpointError)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(is_entry(name, entry) for name, entry in files.items()):
        raise CheckpointError(
            f'{path}: not a manifest of weights; must be {{"files": {{name: {{"bytes", "sha256", "tensors"}}}}}};'
            " restore it, or remove it to use the folder unchecked"
        )
    return files


def is_entry(name: str, entry: Any) -> bool:
    """Whether a manifest entry is valid: `name` is a file name without a folder, and the entry has size and digest."""
    return (
        Path(name).name == name
        and isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("bytes"), int)
    )


def check_file(path: Path, sha256: str | None = None) -> None:
    """Raise CheckpointError if a file is missing, or if its content has another digest than expected.

    The expected digest is `sha256`, or else the one in the manifest.json of the same folder, if it lists the file. With
    neither, only the existence of the file is checked.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path or run the step that makes it")
    expected, source = sha256, "expected"
    if sha256 is None and (path.parent / MANIFEST).is_file():
        entry = read_manifest(path.parent).get(path.name)
        if entry is None:
            return
        expected, source = entry["sha256"], f"{MANIFEST} says"
        if (size := path.stat().st_size) != entry["bytes"]:
            raise CheckpointError(
                f"{path}: has {size} bytes, {source} {entry['bytes']}: the file is truncated or another one; restore"
                " it, or write the manifest again if the change is meant"
            )
    if expected is not None and (digest := sha256_file(path)) != expected:
        raise CheckpointError(
            f"{path}: sha256 is {digest[:12]}…, {source} {expected[:12]}…: the file is damaged or another one; restore"
            " it, or write the manifest again if the change is meant"
        )


def verify_manifest(folder: Path) -> None:
    """Raise CheckpointError unless `folder` holds exactly the files of its manifest, byte for byte."""
    entries = read_manifest(folder)
    if unlisted := sorted({file.name for file in folder.glob("*.safetensors")} - set(entries)):
        raise CheckpointError(
            f"{folder / MANIFEST}: does not list {', '.join(unlisted)}; write the manifest again or remove the file"
        )
    for name, entry in entries.items():
        check_file(folder / name)
        if describe(folder / name) != entry:
            raise CheckpointError(
                f"{folder / MANIFEST}: lists other tensors for {name} than the file holds; write the manifest again"
            )
