"""Features of shards: written beside the chunks, kept while current, and refused where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, read_json, save_arrays, sha256_file, write_json
from qdit.metrics.extraction import BLOCK, extract_file, extract_shard, made_by
from qdit.metrics.features import Extractor, Features, Images, RunFeatures, features_path, read_features

CHUNK, PER_SHARD = 60, 3


class Means:
    """An extractor simple enough to know its features, which counts its calls."""

    name, classes_are_labels = "means", False

    def __init__(self, digest: str = "aa") -> None:
        self.digest = digest
        self.batches: list[int] = []

    def __call__(self, images: Images) -> Features:
        self.batches.append(len(images))
        pool = np.asarray(images).mean(axis=(2, 3), dtype=np.float32)
        return Features(pool, 2 * pool, pool.repeat(3, axis=1))


def sampled(folder: Path, *, images: int = 340) -> np.ndarray:
    """Chunks of random images in shards of three chunks; returns the images."""
    everything = np.random.default_rng(0).integers(0, 256, size=(images, 1, 2, 2), dtype=np.uint8)
    for shard, start in enumerate(range(0, images, CHUNK * PER_SHARD)):
        entries = []
        for first in range(start, min(start + CHUNK * PER_SHARD, images), CHUNK):
            path = folder / f"{first // CHUNK:05d}.npz"
            part = everything[first : first + CHUNK]
            labels = np.arange(first, first + len(part))
            save_arrays(path, {"images": part, "labels": labels, "first": np.int64(first), "key": np.array("k")})
            entries.append({"file": path.name, "sha256": sha256_file(path)})
        listing = {
            "key": "k",
            "images": images,
            "chunk": CHUNK,
            "mode": "simulate",
            "backend": "torch",
            "chunks": entries,
        }
        write_json(folder / f"shard-{shard:03d}.json", listing)
    return everything


def read(folder: Path, *, images: int = 340, extractor: str = "means", weights: str = "aa") -> RunFeatures:
    return read_features(folder, images=images, extractor=extractor, weights_sha256=weights)


def test_features_are_those_of_all_images_in_order(tmp_path: Path) -> None:
    images, extractor = sampled(tmp_path), Means()
    for shard in (1, 0):
        assert extract_shard(tmp_path, shard, extractor) == features_path(tmp_path, shard)
    expected, found = Means()(images), read(tmp_path)
    for layer in ("pool", "spatial", "logits"):
        np.testing.assert_array_equal(getattr(found.features, layer), getattr(expected, layer))
    np.testing.assert_array_equal(found.labels, np.arange(340))
    assert found.made_by == made_by(extractor)
    assert extractor.batches == [BLOCK, 32, BLOCK, 52], "the extractor is given whole blocks, whatever the chunks"


def test_current_features_are_kept_and_others_made_again(tmp_path: Path) -> None:
    sampled(tmp_path)
    first = Means()
    path = extract_shard(tmp_path, 0, first)
    before = path.read_bytes()
    first.batches.clear()
    extract_shard(tmp_path, 0, first)
    assert first.batches == []
    other = Means("bb")
    extract_shard(tmp_path, 0, other)
    assert other.batches and path.read_bytes() != before
    path.write_bytes(before[:-100])
    extract_shard(tmp_path, 0, first)
    assert first.batches and path.read_bytes() == before
    listing = read_json(tmp_path / "shard-000.json")
    write_json(tmp_path / "shard-000.json", {**listing, "chunks": listing["chunks"][:2]})
    extract_shard(tmp_path, 0, first)
    assert len(load_arrays(path)["labels"]) == 2 * CHUNK


def missing(folder: Path) -> None:
    features_path(folder, 1).unlink()


def emptied(folder: Path) -> None:
    save_arrays(features_path(folder, 1), {})


def of_other_chunks(folder: Path) -> None:
    features_path(folder, 1).write_bytes(features_path(folder, 0).read_bytes())


def with_other_weights(folder: Path) -> None:
    for shard in (0, 1):
        extract_shard(folder, shard, Means("bb"))


def by_other_code(folder: Path) -> None:
    arrays = load_arrays(features_path(folder, 1))
    changed = str(arrays["origin"]).replace(made_by(Means()).code, "older")
    save_arrays(features_path(folder, 1), {**arrays, "origin": np.array(changed)})


def of_another_run(folder: Path) -> None:
    change_origin(folder, key="another")


def that_say_another_origin(folder: Path) -> None:
    change_origin(folder, samples={"family": "dit"})


def change_origin(folder: Path, **changes: object) -> None:
    arrays = load_arrays(features_path(folder, 1))
    origin = json.loads(str(arrays["origin"])) | changes
    save_arrays(features_path(folder, 1), arrays | {"origin": np.array(json.dumps(origin, sort_keys=True))})


def cut_short(folder: Path) -> None:
    arrays = load_arrays(features_path(folder, 1))
    save_arrays(features_path(folder, 1), {**arrays, "pool": arrays["pool"][:-1]})


def without_a_shard(folder: Path) -> None:
    (folder / "shard-001.json").unlink()


def without_the_first_shard(folder: Path) -> None:
    (folder / "shard-000.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (missing, "features-001.npz: no such file; run `qdit features .*` --shard 1"),
        (emptied, "not the features of a shard"),
        (of_another_run, "features of samples with the key another…, shard-001.json has k…"),
        (that_say_another_origin, "not the features of the chunks"),
        (of_other_chunks, "not the features of the chunks that shard-001.json lists"),
        (with_other_weights, "features are those of means with weights bb…, evaluated is with means and aa…"),
        (by_other_code, "two versions of the code"),
        (cut_short, "allowed is one number of images"),
        (without_a_shard, "has features of 180 images, 340 are expected"),
        (without_the_first_shard, "features of image 0 are missing, the next are of 180"),
    ],
)
def test_features_that_do_not_fit_are_one_line(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    sampled(tmp_path)
    for shard in (0, 1):
        extract_shard(tmp_path, shard, Means())
    harm(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_extractor_or_number_of_images_is_refused(tmp_path: Path) -> None:
    sampled(tmp_path)
    for shard in (0, 1):
        extract_shard(tmp_path, shard, Means())
    with pytest.raises(DataError, match="evaluated is with digit-classifier"):
        read(tmp_path, extractor="digit-classifier")
    with pytest.raises(DataError, match="is a run of 340 images, 400 are expected"):
        read(tmp_path, images=400)


def test_a_damaged_chunk_has_no_features(tmp_path: Path) -> None:
    sampled(tmp_path)
    path = tmp_path / "00001.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="the list says"):
        extract_shard(tmp_path, 0, Means())
    assert not features_path(tmp_path, 0).exists()


def test_every_shard_by_name_of_the_extractor(tmp_path: Path, weights: Path, extractor: Extractor) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(4, 1, 8, 8), dtype=np.uint8)
    path = tmp_path / "00000.npz"
    save_arrays(path, {"images": images, "labels": np.arange(4), "first": np.int64(0), "key": np.array("k")})
    chunks = [{"file": path.name, "sha256": sha256_file(path)}]
    listing = {"key": "k", "images": 4, "chunk": 4, "mode": "simulate", "backend": "torch", "chunks": chunks}
    write_json(tmp_path / "shard-000.json", listing)
    assert extract_file(tmp_path, None, "digit-classifier", weights) == [features_path(tmp_path, 0)]
    found = read(tmp_path, images=4, extractor="digit-classifier", weights=sha256_file(weights))
    np.testing.assert_array_equal(found.features.pool, extractor(images).pool)
    with pytest.raises(DataError, match="has no shard-"):
        extract_file(tmp_path / "empty", None, "digit-classifier", weights)
