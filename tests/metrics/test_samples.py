"""Reading a run's images back: order, completeness, digests, and what is left over from other runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.failure import Failure
from qdit.core.files import read_json, save_arrays, sha256_file, write_json
from qdit.metrics.samples import listed_shards, stream_samples


def write_shard(
    folder: Path, shard: int, numbers: range, *, images: int = 20, chunk: int = 4, key: str = "k", seed: int = 0
) -> None:
    """Chunks of `chunk` images, the last of which may hold fewer, and their list."""
    draw = np.random.default_rng(seed)
    everything = draw.integers(0, 256, size=(images, 1, 2, 2), dtype=np.uint8)
    entries = []
    for number in numbers:
        first = number * chunk
        part = everything[first : first + chunk]
        arrays = {
            "images": part,
            "labels": np.arange(first, first + len(part)),
            "first": np.int64(first),
            "key": np.array(key),
        }
        path = folder / f"{number:05d}.npz"
        save_arrays(path, arrays)
        entries.append({"file": path.name, "sha256": sha256_file(path)})
    listing = {"key": key, "images": images, "chunk": chunk, "mode": "simulate", "backend": "torch", "chunks": entries}
    write_json(folder / f"shard-{shard:03d}.json", listing)


def read_samples(folder: Path, *, images: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole stream at once."""
    chunks = list(stream_samples(folder, images=images))
    return np.concatenate([chunk.images for chunk in chunks]), np.concatenate([chunk.labels for chunk in chunks])


def expected(images: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(images, 1, 2, 2), dtype=np.uint8)


@pytest.mark.parametrize("shards", [[range(5)], [range(2), range(2, 4), range(4, 5)], [range(3, 5), range(3)]])
def test_images_come_in_order_whatever_the_shards(tmp_path: Path, shards: list[range]) -> None:
    for shard, numbers in enumerate(shards):
        write_shard(tmp_path, shard, numbers)
    images, labels = read_samples(tmp_path, images=20)
    np.testing.assert_array_equal(images, expected())
    np.testing.assert_array_equal(labels, np.arange(20))
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64


def test_the_last_chunk_may_be_short(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, range(5), images=18)
    assert len(read_samples(tmp_path, images=18)[0]) == 18


def test_lists_left_over_from_other_configurations_are_ignored(tmp_path: Path) -> None:
    for shard in range(5):
        write_shard(tmp_path, shard, range(shard, shard + 1))
    write_shard(tmp_path, 7, range(9, 10), images=40, key="old")
    write_shard(tmp_path, 0, range(5))
    np.testing.assert_array_equal(read_samples(tmp_path, images=20)[0], expected())
    assert [shard.number for shard in listed_shards(tmp_path, images=20)] == [0]


def test_images_are_streamed_a_chunk_at_a_time(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, range(5))
    stream = stream_samples(tmp_path, images=20)
    assert len(next(stream).images) == 4
    remove_chunk(tmp_path)
    assert next(stream).first == 4
    with pytest.raises(DataError, match="listed but not there"):
        next(stream)


def test_a_recorded_failure_is_told(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, range(5))
    failure = Failure("sample", "failed", "it diverges")
    listing = read_json(tmp_path / "shard-000.json")
    write_json(tmp_path / "shard-000.json", {**listing, "chunks": [], **failure.to_dict()})
    with pytest.raises(DataError, match="holds no images, failed in sample: it diverges"):
        read_samples(tmp_path, images=20)


def remove_chunk(folder: Path) -> None:
    (folder / "00002.npz").unlink()


def damage_chunk(folder: Path) -> None:
    path = folder / "00002.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove_middle_of_list(folder: Path) -> None:
    listing = read_json(folder / "shard-000.json")
    del listing["chunks"][2]
    write_json(folder / "shard-000.json", listing)


def remove_end_of_list(folder: Path) -> None:
    listing = read_json(folder / "shard-000.json")
    del listing["chunks"][-1]
    write_json(folder / "shard-000.json", listing)


def remove_list(folder: Path) -> None:
    (folder / "shard-000.json").unlink()


def garble_list(folder: Path) -> None:
    write_json(folder / "shard-000.json", [1, 2])


def empty_list(folder: Path) -> None:
    write_json(folder / "shard-000.json", {**read_json(folder / "shard-000.json"), "chunks": []})


def change_key_of_list(folder: Path) -> None:
    write_json(folder / "shard-000.json", {**read_json(folder / "shard-000.json"), "key": "other"})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove_chunk, "listed but not there"),
        (damage_chunk, "the list says"),
        (remove_middle_of_list, "image 8 is missing, the next chunk starts at 12"),
        (remove_end_of_list, "holds 16 images, 20 are expected"),
        (remove_list, "has no shard-"),
        (garble_list, "not a list of sample chunks"),
        (empty_list, "holds 0 images, 20 are expected"),
        (change_key_of_list, "does not fit the list"),
    ],
)
def test_incomplete_or_damaged_runs_are_refused(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    write_shard(tmp_path, 0, range(5))
    harm(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_samples(tmp_path, images=20)
    assert "\n" not in str(caught.value)


def test_another_number_of_images_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, range(5))
    with pytest.raises(DataError, match="is a run of 20 images, 24 are expected"):
        read_samples(tmp_path, images=24)
    with pytest.raises(DataError, match="0 images are expected"):
        read_samples(tmp_path, images=0)
