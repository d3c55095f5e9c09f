"""Files: whole or not at all, the same bytes for the same content, and nothing in them is ever run."""

import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qdit.core import files as artifacts
from qdit.core.errors import CheckpointError, ConfigError, DataError

TENSORS = {
    "b": torch.arange(6, dtype=torch.int8).reshape(2, 3),
    "a": torch.linspace(0, 1, 5),
    "c": torch.ones(2, dtype=torch.bfloat16),
}
ARRAYS = {"images": np.arange(12, dtype=np.uint8).reshape(3, 4), "key": np.array("abc"), "first": np.int64(7)}


class Hostile:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: artifacts.write_text(path, "new"),
    "bytes": lambda path: artifacts.write_bytes(path, b"new"),
    "json": lambda path: artifacts.write_json(path, {"new": 1}),
    "tensors": lambda path: artifacts.save_tensors(path, TENSORS),
    "arrays": lambda path: artifacts.save_arrays(path, ARRAYS),
}


# Atomicity


@pytest.mark.parametrize("kind", WRITERS)
def test_a_writer_leaves_exactly_its_file(tmp_path, kind: str) -> None:
    path = tmp_path / "deep" / "er" / "file"
    WRITERS[kind](path)
    assert [p.name for p in path.parent.iterdir()] == ["file"] and path.stat().st_size > 0
    first = path.read_bytes()
    path.write_bytes(b"old content")
    WRITERS[kind](path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_flushed_and_then_renamed(tmp_path, monkeypatch, kind: str) -> None:
    """At the moment of the rename the temporary file is complete, synced and in the same folder."""
    events: list[str] = []
    replace, sync = os.replace, os.fsync

    def watched(source: Path, target: Path) -> None:
        events.append("replace")
        assert Path(source).parent == Path(target).parent == tmp_path
        assert not Path(target).exists()
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", watched)
    WRITERS[kind](tmp_path / "file")
    assert events[-2:] == ["sync", "replace"] and events.count("replace") == 1


@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_writer_that_raises_leaves_what_was_there(tmp_path, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(KeyboardInterrupt), artifacts.atomic_path(path) as temporary:
        temporary.write_bytes(b"half of")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path, old: bytes | None) -> None:
    path = tmp_path / "file.npz"
    if old is not None:
        path.write_bytes(old)
    child = os.fork()
    if child == 0:
        with artifacts.atomic_path(path) as temporary:
            temporary.write_bytes(b"half of")
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert path.exists() == (old is not None)
    assert old is None or path.read_bytes() == old
    assert list(tmp_path.glob("*.npz")) == ([] if old is None else [path])
    WRITERS["arrays"](path)
    assert artifacts.load_arrays(path)["first"] == 7


def test_content_that_cannot_be_written_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    attempts: list[Callable[[], None]] = [
        lambda: artifacts.write_json(path, {"x": float("nan")}),
        lambda: artifacts.write_json(path, {"x": object()}),
        lambda: artifacts.save_tensors(path, {"x": torch.ones(1)}, {"bad": object()}),
        lambda: artifacts.write_text(path, "\udc80"),
    ]
    for attempt in attempts:
        with pytest.raises((ValueError, TypeError)):
            attempt()
    assert path.read_bytes() == b"old content" and len(list(tmp_path.iterdir())) == 1


# JSON


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_not_a_number(tmp_path, bad: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_json(tmp_path / "x.json", {"metrics": {"fid": [1.0, bad]}})
    assert not list(tmp_path.iterdir())


def test_json_is_canonical(tmp_path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    artifacts.write_json(first, {"b": [1, 0.1], "a": None})
    artifacts.write_json(second, {"a": None, "b": [1, 0.1]})
    assert first.read_bytes() == second.read_bytes() and first.read_bytes().endswith(b"}\n")
    assert artifacts.read_json(first) == {"a": None, "b": [1, 0.1]} == json.loads(first.read_text())


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"\x80\x04."])
def test_malformed_json_is_one_line(tmp_path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid JSON") as caught:
        artifacts.read_json(path, error=ConfigError)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        artifacts.read_json(tmp_path / "gone.json")


# Digests


def test_digests(tmp_path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.sha256_file(path) == artifacts.sha256_text("abc") == abc
    assert artifacts.sha256_json({"a": 1, "b": [2]}) == artifacts.sha256_json({"b": [2], "a": 1})
    assert artifacts.sha256_json({"a": 1}) != artifacts.sha256_json({"a": "1"})


# safetensors


def test_tensors_round_trip_with_metadata(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"model": {"depth": 2}, "list": [1, None, "ü"]}
    artifacts.save_tensors(path, TENSORS, metadata)
    result, read = artifacts.load_tensors(path)
    assert read == metadata and set(result) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert result[name].dtype == tensor.dtype and torch.equal(result[name], tensor)
    assert set(load_file(path)) == set(TENSORS)
    artifacts.save_tensors(path, TENSORS)
    assert artifacts.load_tensors(path)[1] is None


def test_tensors_are_deterministic_bytes(tmp_path) -> None:
    paths = [tmp_path / f"{n}.safetensors" for n in range(6)]
    for index, path in enumerate(paths):
        names = list(TENSORS) if index % 2 else list(reversed(TENSORS))
        metadata = {"x": 1, "y": {"b": 2, "a": 3}} if index % 3 else {"y": {"a": 3, "b": 2}, "x": 1}
        artifacts.save_tensors(path, {name: TENSORS[name] for name in names}, metadata)
    assert len({path.read_bytes() for path in paths}) == 1


def test_views_and_gradients_are_saved_as_plain_tensors(tmp_path) -> None:
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    path = tmp_path / "x.safetensors"
    artifacts.save_tensors(path, {"t": whole.t(), "row": whole[1]})
    result, _ = artifacts.load_tensors(path)
    assert torch.equal(result["t"], whole.detach().t()) and torch.equal(result["row"], whole.detach()[1])


def test_digest_of_tensors_is_checked_before_they_are_read(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    artifacts.save_tensors(path, TENSORS)
    digest = artifacts.sha256_file(path)
    artifacts.load_tensors(path, sha256=digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"sha256 .*{digest[:12]}"):
        artifacts.load_tensors(path, sha256=digest)


@pytest.mark.parametrize("damage", ["empty", "header", "truncated", "pickle"])
def test_unreadable_tensors_are_one_line(tmp_path, damage: str) -> None:
    path, marker = tmp_path / "x.safetensors", tmp_path / "marker"
    artifacts.save_tensors(path, TENSORS)
    data = path.read_bytes()
    content = {
        "empty": b"",
        "header": data[:8] + b"!" + data[9:],
        "truncated": data[:-1],
        "pickle": pickle.dumps(Hostile(marker)),
    }
    path.write_bytes(content[damage])
    with pytest.raises(DataError, match="not a readable safetensors file") as caught:
        artifacts.load_tensors(path, error=DataError)
    assert "\n" not in str(caught.value) and not marker.exists()
    with pytest.raises(CheckpointError, match="no such file"):
        artifacts.load_tensors(tmp_path / "gone")


# npz


def test_arrays_round_trip_with_deterministic_bytes(tmp_path) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    artifacts.save_arrays(first, ARRAYS)
    os.utime(first, (0, 0))
    artifacts.save_arrays(second, dict(ARRAYS))
    assert first.read_bytes() == second.read_bytes()
    result = artifacts.load_arrays(first)
    assert set(result) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert result[name].dtype == array.dtype and np.array_equal(result[name], array)


def test_a_pickle_inside_an_npz_is_not_run(tmp_path) -> None:
    path, marker = tmp_path / "x.npz", tmp_path / "marker"
    with path.open("wb") as data:
        np.savez(data, images=np.array([Hostile(marker)], dtype=object))
    with pytest.raises(DataError, match="without pickles"):
        artifacts.load_arrays(path)
    assert not marker.exists()
    with np.load(path, allow_pickle=True) as archive:  # the payload is real: numpy alone would run it
        archive["images"]
    assert marker.exists()


def test_arrays_of_objects_are_never_written(tmp_path) -> None:
    with pytest.raises((ValueError, DataError)):
        artifacts.save_arrays(tmp_path / "x.npz", {"x": np.array([{"a": 1}], dtype=object)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "pickle", "text", "npy"])
def test_unreadable_arrays_are_one_line(tmp_path, damage: str) -> None:
    path, marker = tmp_path / "x.npz", tmp_path / "marker"
    artifacts.save_arrays(path, ARRAYS)
    data = bytearray(path.read_bytes())
    position = data.index(ARRAYS["images"].tobytes()) + 3
    flipped = data[:position] + bytes([data[position] ^ 8]) + data[position + 1 :]
    content = {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "flipped": flipped,
        "pickle": pickle.dumps(Hostile(marker)),
        "text": b"a,b\n1,2\n",
    }
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, ARRAYS["images"])
    else:
        path.write_bytes(content[damage])
    with pytest.raises(DataError, match="not a readable npz") as caught:
        artifacts.load_arrays(path)
    assert "\n" not in str(caught.value) and not marker.exists()


def test_missing_arrays(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        artifacts.load_arrays(tmp_path / "gone.npz")


# Finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted(bad: float) -> None:
    values = torch.zeros(2, 3)
    values[1, 2] = values[0, 0] = bad
    with pytest.raises(CheckpointError, match="weights: 2 of 6 values are NaN or infinite"):
        artifacts.require_finite("weights", values, error=CheckpointError)
    artifacts.require_finite("codes", torch.tensor([1, 2]))
    artifacts.require_finite("empty", torch.zeros(0))
