"""MP4 files with VBench's names as samples: the same clips come back, and every fault is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.mp4 import frames_per_second, write_mp4
from qdit.core.run import IMPORTED
from qdit.metrics.clips import stream_clips
from qdit.metrics.imported_clips import import_clips
from qdit.metrics.samples import listed_shards
from qdit.metrics.statement import FILE
from qdit.metrics.vbench.clips import write_clips
from qdit.sampling.chunks import SIMULATE, Shard, make_chunks
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.origin import Origin, facts_of

CLIPS = [("a red 2", 0), ("a red 2", 1), ("a blue 4", 0)]
PROTOCOL = FlowProtocol(frames=4, height=16, width=16, fps=8, steps=2, cfg_scale=2.5, shift=2.5, seed=0)
STATEMENT = {"sampler": "rectified-flow", "steps": 2, "cfg_scale": 2.5, "seed": 0}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Chunks of full precision in `full`, and the same clips as lossless MP4 files in `clips`."""
    generator = np.random.default_rng(0)
    origin = Origin("stdit3", facts_of(PROTOCOL), (3, 4, 16, 16), 2, "c", {}, {"name": "simulate"}, "d").to_dict()

    def make(samples: range, count: int) -> dict[str, np.ndarray]:
        named = CLIPS[samples.start : samples.start + count]
        frames = generator.integers(256, size=(count, 3, 4, 16, 16), dtype=np.uint8)
        return {
            "frames": frames,
            "prompts": np.array([prompt for prompt, _ in named]),
            "numbers": np.array([number for _, number in named]),
        }

    shard = Shard(len(CLIPS), 2, 0, 2, "clips")
    chunks = make_chunks(shard, tmp_path / "full", origin, ("frames", "prompts", "numbers"), make)
    shard.write(tmp_path / "full", SIMULATE, {**shard.listing(origin), "chunks": chunks})
    write_clips(tmp_path / "full", tmp_path / "clips", clips=len(CLIPS), fps=8, lossless=True)
    return tmp_path


def imported(place: Path) -> int:
    return import_clips(place / "clips", place / "imported", clips=CLIPS, chunk=2, like=place / "full")


def test_lossless_clips_come_back_bit_by_bit(place: Path) -> None:
    assert imported(place) == 3
    pairs = [list(stream_clips(place / name, clips=3)) for name in ("full", "imported")]
    for ours, theirs in zip(*pairs, strict=True):
        assert (ours.frames == theirs.frames).all() and ours.names == theirs.names
    origin = listed_shards(place / "imported")[0].made_of()
    assert origin.family == IMPORTED and not origin.may_be_paired and origin.prompts["count"] == 3  # type: ignore[index]


def test_clips_that_state_the_protocol_may_be_paired(place: Path) -> None:
    (place / "clips" / FILE).write_text(json.dumps(STATEMENT))
    imported(place)
    assert listed_shards(place / "imported")[0].made_of().may_be_paired


def frames(count: int = 4, side: int = 16) -> np.ndarray:
    return np.zeros((count, side, side, 3), np.uint8)


def relink(folder: Path) -> None:
    (folder / "a red 2-1.mp4").unlink()
    (folder / "a red 2-1.mp4").symlink_to(folder / "a red 2-0.mp4")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda f: (f / "a red 2-1.mp4").unlink(),
        r"1 of 3 clips are missing, first 'a red 2-1.mp4'; names",
    ),
    "no prompt": (
        lambda f: write_mp4(f / "a cat-0.mp4", frames(), fps=8),
        r"holds 1 clips of no prompt, first 'a cat",
    ),
    "a link": (relink, r"'a red 2-1.mp4' is a link"),
    "speed": (
        lambda f: write_mp4(f / "a red 2-0.mp4", frames(), fps=24),
        r"24 frames per second, full precision has 8",
    ),
    "frames": (lambda f: write_mp4(f / "a red 2-0.mp4", frames(6), fps=8), r"has 6 frames, allowed are exactly 4"),
    "size": (lambda f: write_mp4(f / "a red 2-0.mp4", frames(side=32), fps=8), r"frames are \(32, 32\), those of full"),
    "no video": (lambda f: (f / "a red 2-0.mp4").write_bytes(b"GIF8"), r"not a readable video"),
    "another seed": (
        lambda f: (f / FILE).write_text(json.dumps(STATEMENT | {"seed": 4})),
        r"states seed 4, full precision has 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line(place: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    change(place / "clips")
    with pytest.raises(DataError, match=words) as refused:
        imported(place)
    assert "\n" not in str(refused.value)


def test_a_file_says_its_frames_per_second(place: Path) -> None:
    assert frames_per_second(place / "clips" / "a red 2-0.mp4") == 8
