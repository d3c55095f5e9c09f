"""Sample chunks: the same bytes whoever computes them, kept when current, made again when not."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import load_arrays, save_arrays, sha256_file
from qdit.core.pixels import to_uint8
from qdit.sampling.batch import Batches, sample_images
from qdit.sampling.chunks import Shard
from qdit.sampling.guidance import denoiser
from qdit.sampling.images import PIXELS, Labels
from qdit.sampling.noise import initial_noise, labels, step_noise
from qdit.sampling.origin import origin_key
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import sample_shard
from qdit.sampling.samplers import sample
from qdit.sampling.schedule import respaced

PROTOCOLS = [Protocol("ddim", 4, 1.0, 0), Protocol("ddim", 4, 1.5, 0), Protocol("ddpm", 4, 1.5, 3)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Run:
    """Samples `images` images in chunks of four into a folder; counts what the model computed."""

    def __init__(self, model, folder: Path, protocol: Protocol = PROTOCOLS[0]) -> None:
        self.model, self.folder, self.protocol = model, folder, protocol
        self.batches: list[int] = []
        model.register_forward_pre_hook(lambda _, inputs: self.batches.append(len(inputs[0])))

    def shard(self, shard: int = 0, *, images: int = 12, chunk: int = 4, per_shard: int = 99, key: str = "k") -> Path:
        self.batches.clear()
        batches = Batches(self.model, self.protocol, Labels(10, self.protocol.seed), PIXELS)
        return sample_shard(batches, Shard(images, chunk, shard, per_shard), self.folder, {"of": key})

    @property
    def chunks_computed(self) -> int:
        return len(self.batches) // self.protocol.steps

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("*.npz"))}


@pytest.fixture(autouse=True)
def chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk is a batch of its own here; `test_together.py` has several chunks in one."""
    monkeypatch.setattr("qdit.sampling.batch.MOST_TOKENS", 1)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.sampler}-{p.cfg_scale}")
def test_one_job_or_many_in_any_order_give_the_same_bytes(dit, tmp_path, protocol: Protocol) -> None:
    one, many = Run(dit, tmp_path / "one", protocol), Run(dit, tmp_path / "many", protocol)
    one.shard(images=14)
    for shard in (3, 0, 2, 1):
        many.shard(shard, images=14, per_shard=1)
    assert one.files() == many.files()
    assert list(one.files()) == [f"{n:05d}.npz" for n in range(4)]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.sampler}-{p.cfg_scale}")
def test_images_of_another_chunk_size_agree_but_for_rounding(dit, protocol: Protocol) -> None:
    whole, asked = sample_images(dit, protocol, range(12))
    parts = [sample_images(dit, protocol, range(first, first + 3)) for first in range(0, 12, 3)]
    assert torch.equal(torch.cat([y for _, y in parts]), asked)
    torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole, rtol=1e-4, atol=1e-4)


def test_balanced_labels_are_part_of_the_protocol_and_random_ones_are_not_written(dit) -> None:
    balanced = Protocol("ddpm", 4, 1.5, 0, labels="balanced")
    found, sampled_labels = sample_images(dit, balanced, range(12, 15))
    assert sampled_labels.tolist() == [2, 3, 4]
    assert not torch.equal(found, sample_images(dit, Protocol("ddpm", 4, 1.5, 0), range(12, 15))[0])
    assert balanced.to_dict()["labels"] == balanced.all_facts()["labels"] == balanced.unusual()["labels"] == "balanced"
    usual = Protocol("ddpm", 4, 1.5, 0)
    assert not {"labels"} & {*usual.to_dict(), *usual.all_facts(), *usual.unusual()}, "older samples keep their digest"
    with pytest.raises(ConfigError, match="labels 'sorted': allowed are random, balanced"):
        Protocol(labels="sorted")


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.sampler}-{p.cfg_scale}")
def test_images_are_the_samplers_of_their_noise_and_label(dit, protocol: Protocol) -> None:
    images = range(5, 8)
    found, asked = sample_images(dit, protocol, images)
    assert torch.equal(asked, labels(10, protocol.seed, images))

    def draw(step: int) -> torch.Tensor:
        return step_noise((1, 4, 4), protocol.seed, images, step)

    expected = sample(
        denoiser(dit, asked, protocol.cfg_scale),
        initial_noise((1, 4, 4), protocol.seed, images),
        respaced(protocol.steps),
        step_noise=draw if protocol.sampler == "ddpm" else None,
    )
    assert torch.equal(found, expected)


def test_protocols_differ_in_their_images(dit) -> None:
    images = [sample_images(dit, protocol, range(2))[0] for protocol in PROTOCOLS]
    assert all((a - b).abs().max() > 1e-2 for a, b in itertools.pairwise(images))


def test_content_of_a_chunk_and_of_the_list(dit, tmp_path) -> None:
    run = Run(dit, tmp_path)
    path = run.shard(1, images=11, per_shard=2, key="abc")
    assert path == tmp_path / "shard-001.json"
    chunk = load_arrays(tmp_path / "00002.npz")
    assert chunk["images"].dtype == np.uint8 and chunk["images"].shape == (3, 1, 4, 4)
    assert chunk["labels"].dtype == np.int64 and chunk["labels"].shape == (3,)
    assert chunk["first"] == 8 and chunk["first"].shape == () and chunk["key"] == origin_key({"of": "abc"})
    assert json.loads(str(chunk["origin"])) == {"of": "abc"}
    x0, asked = sample_images(dit, run.protocol, range(8, 12))
    assert np.array_equal(chunk["images"], to_uint8(x0[:3]).numpy())
    assert np.array_equal(chunk["labels"], asked[:3].numpy())
    listing = json.loads(path.read_text())
    assert listing["chunks"] == [{"file": "00002.npz", "sha256": sha256_file(tmp_path / "00002.npz")}]
    assert (listing["key"], listing["images"], listing["chunk"]) == (origin_key({"of": "abc"}), 11, 4)
    assert listing["origin"] == {"of": "abc"} and listing["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_the_last_chunk_is_computed_as_a_whole_batch(dit, tmp_path) -> None:
    part, full = Run(dit, tmp_path / "part"), Run(dit, tmp_path / "full")
    part.shard(images=5)
    assert set(part.batches) == {4}
    full.shard(images=8)
    short, long = (load_arrays(run.folder / "00001.npz")["images"] for run in (part, full))
    assert len(short) == 1 and np.array_equal(short, long[:1])


def test_current_chunks_are_kept_and_stale_ones_made_again(dit, tmp_path) -> None:
    run = Run(dit, tmp_path)
    run.shard()
    assert run.chunks_computed == 3
    first = run.files()
    inodes = [os.stat(tmp_path / name).st_ino for name in first]
    run.shard()
    assert run.chunks_computed == 0
    assert [os.stat(tmp_path / name).st_ino for name in first] == inodes and run.files() == first
    run.shard(key="another")
    assert run.chunks_computed == 3
    assert {str(load_arrays(tmp_path / name)["origin"]) for name in first} == {'{"of": "another"}'}
    run.shard(key="k")
    assert run.files() == first


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "no key"])
def test_damaged_chunks_are_made_again(dit, tmp_path, damage: str) -> None:
    run = Run(dit, tmp_path)
    listing = run.shard()
    before, listed = run.files(), listing.read_bytes()
    path = tmp_path / "00001.npz"
    data = bytearray(before[path.name])
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        position = data.index(load_arrays(path)["images"].tobytes())
        data[position + 5] ^= 1
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(b"not a chunk at all")
    else:
        save_arrays(path, {"images": np.zeros((4, 1, 4, 4), np.uint8)})
    run.shard()
    assert run.chunks_computed == 1
    assert run.files() == before and listing.read_bytes() == listed


def test_more_images_than_before_complete_the_last_chunk(dit, tmp_path) -> None:
    """A chunk that was cut short for another number of images is not current, whatever its key says."""
    run, fresh = Run(dit, tmp_path / "grown"), Run(dit, tmp_path / "fresh")
    run.shard(images=6)
    run.shard(images=8)
    assert run.chunks_computed == 1
    fresh.shard(images=8)
    assert run.files() == fresh.files()


def test_a_killed_job_leaves_whole_chunks_and_goes_on(dit, tmp_path) -> None:
    undisturbed, killed = Run(dit, tmp_path / "undisturbed"), Run(dit, tmp_path / "killed")
    listing = undisturbed.shard().read_bytes()
    hook = dit.register_forward_pre_hook(lambda *_: fail() if killed.chunks_computed >= 2 else None)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.shard()
    hook.remove()
    assert 0 < len(killed.files()) < 3
    assert [p.name for p in killed.folder.iterdir() if p.suffix != ".npz"] == []
    resumed = killed.shard()
    assert 0 < killed.chunks_computed < 3
    assert killed.files() == undisturbed.files() and resumed.read_bytes() == listing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": 0}, "images 0.*at least 1"),
        ({"images": -4}, "images -4"),
        ({"chunk": 0}, "chunk 0"),
        ({"per_shard": 0}, "chunks_per_shard 0"),
        ({"shard": 3, "per_shard": 1}, "shard 3.*shards 0 to 2"),
        ({"shard": -1}, "shard -1"),
    ],
)
def test_impossible_counts_are_refused(dit, tmp_path, arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Run(dit, tmp_path).shard(**arguments)
    assert not list(tmp_path.iterdir())


def test_images_that_are_not_finite_are_an_error(dit, tmp_path) -> None:
    dit.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN or infinity"):
        Run(dit, tmp_path).shard()
    assert not list(tmp_path.iterdir())


def test_pixels_are_truncated_like_the_originals() -> None:
    values = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.0039, 0.0040, 0.99, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 128, 128, 254, 255, 255]
    assert to_uint8(torch.arange(17) / 8 - 1).tolist() == [int(min(127.5 * (k / 8 - 1) + 128, 255)) for k in range(17)]
