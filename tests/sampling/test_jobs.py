"""The same 64 images of the mini model out of one job, four jobs side by side, and three of which one is killed."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from qdit.core import files as artifacts
from qdit.metrics.samples import stream_samples
from qdit.models.loading import load_dit
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob, sample_checkpoint

PROTOCOL = Protocol("ddpm", 2, 1.5, 0)
IMAGES, CHUNK = 64, 4
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def checkpoint(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini model in full precision."""
    folder = tmp_path_factory.mktemp("mini") / "checkpoint"
    save_checkpoint(folder, Quantized(load_dit(repository / "weights" / "dit-digits-natural.safetensors")), {})
    return folder


def start(checkpoint: Path, out: Path, *, shard: int, chunks_per_shard: int, killed_after: int | None = None):
    """A job in a process of its own; it kills itself, as kill -9 does, while it writes the chunk after so many."""

    def job() -> None:
        torch.set_num_threads(1)
        if killed_after is not None:
            written, flush = [], os.fsync

            def fsync(descriptor: int) -> None:
                written.append(descriptor)
                if len(written) > killed_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                flush(descriptor)

            artifacts.os.fsync = fsync
        size = {"samples": IMAGES, "chunk": CHUNK, "shard": shard, "chunks_per_shard": chunks_per_shard}
        sample_checkpoint(SampleJob(checkpoint, out, PROTOCOL, **size))

    process = FORK.Process(target=job)
    process.start()
    return process


def ended(process) -> int:
    process.join(120)
    return process.exitcode


def chunks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*.npz"))}


def test_the_same_images_from_one_job_four_jobs_and_three_with_one_killed(checkpoint: Path, tmp_path: Path) -> None:
    one, four, three = (tmp_path / name for name in ("one", "four", "three"))
    assert ended(start(checkpoint, one, shard=0, chunks_per_shard=16)) == 0
    images = chunks(one)
    assert len(images) == 16 and sum(len(part.images) for part in stream_samples(one, images=IMAGES)) == IMAGES

    side_by_side = [start(checkpoint, four, shard=shard, chunks_per_shard=4) for shard in range(4)]
    assert [ended(process) for process in side_by_side] == [0] * 4
    assert chunks(four) == images

    # shards of 6, 6 and 4 chunks; the second job is killed while it writes its third chunk
    jobs = [start(checkpoint, three, shard=n, chunks_per_shard=6, killed_after=2 if n == 1 else None) for n in range(3)]
    assert [ended(process) for process in jobs] == [0, -signal.SIGKILL, 0]
    kept = {path.name: path.stat().st_mtime_ns for path in three.glob("0*.npz")}
    assert set(images) - set(kept) == {f"{n:05d}.npz" for n in range(8, 12)}
    assert not (three / "shard-001.json").exists() and list(three.glob(".*.tmp.*"))
    assert ended(start(checkpoint, three, shard=1, chunks_per_shard=6)) == 0
    assert chunks(three) == images
    assert {name: (three / name).stat().st_mtime_ns for name in kept} == kept
    assert sum(len(part.images) for part in stream_samples(three, images=IMAGES)) == IMAGES
