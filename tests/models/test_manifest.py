"""The manifest of a weights folder: written, verified, and what it catches."""

import json

import pytest
import torch

from qdit.core.errors import CheckpointError
from qdit.core.files import save_tensors, sha256_file
from qdit.models.manifest import check_file, verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    save_tensors(tmp_path / "b.safetensors", {"y": torch.arange(6, dtype=torch.int16).reshape(2, 3)})
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(4), "w": torch.zeros(1, 2, dtype=torch.float16)})
    (tmp_path / "README.md").write_text("not weights")
    write_manifest(tmp_path)
    return tmp_path


def test_content_and_stability(folder) -> None:
    before = (folder / "manifest.json").read_bytes()
    assert json.loads(before) == {
        "files": {
            "a.safetensors": {
                "bytes": (folder / "a.safetensors").stat().st_size,
                "sha256": sha256_file(folder / "a.safetensors"),
                "tensors": {"w": ["float16", [1, 2]], "x": ["float32", [4]]},
            },
            "b.safetensors": {
                "bytes": (folder / "b.safetensors").stat().st_size,
                "sha256": sha256_file(folder / "b.safetensors"),
                "tensors": {"y": ["int16", [2, 3]]},
            },
        }
    }
    assert write_manifest(folder).read_bytes() == before
    verify_manifest(folder)


def test_what_verification_finds(folder, one_line_error) -> None:
    manifest = folder / "manifest.json"
    good, weights = manifest.read_text(), (folder / "a.safetensors").read_bytes()

    save_tensors(folder / "c.safetensors", {"z": torch.ones(1)})
    one_line_error(CheckpointError, lambda: verify_manifest(folder), "does not list c.safetensors")
    (folder / "c.safetensors").unlink()

    (folder / "a.safetensors").write_bytes(weights[:-1])
    one_line_error(CheckpointError, lambda: verify_manifest(folder), "a.safetensors", "truncated")
    (folder / "a.safetensors").write_bytes(weights[:-1] + b"\x01")
    one_line_error(CheckpointError, lambda: verify_manifest(folder), "a.safetensors", "sha256")
    (folder / "a.safetensors").unlink()
    one_line_error(CheckpointError, lambda: verify_manifest(folder), "a.safetensors", "no such file")
    (folder / "a.safetensors").write_bytes(weights)

    manifest.write_text(good.replace("float16", "float64"))
    one_line_error(CheckpointError, lambda: verify_manifest(folder), "other tensors for a.safetensors")
    manifest.write_text(good)
    verify_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"a.safetensors": {}}}',
        "{",
        '{"files": {"../a": {"sha256": "", "bytes": 1}}}',
    ],
)
def test_what_is_not_a_manifest(folder, one_line_error, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    one_line_error(CheckpointError, lambda: verify_manifest(folder), "manifest.json")
    one_line_error(CheckpointError, lambda: check_file(folder / "a.safetensors"), "manifest.json")


def test_a_folder_without_a_manifest(tmp_path, one_line_error) -> None:
    one_line_error(CheckpointError, lambda: verify_manifest(tmp_path), "manifest.json", "no such file")
    (tmp_path / "a.bin").write_bytes(b"1")
    check_file(tmp_path / "a.bin")
