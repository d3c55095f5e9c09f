"""A run's clips under VBench's names, and folders that VBench would score without a word though something is wrong."""

import json
import weakref
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.files import read_json, save_arrays, sha256_file, write_json
from qdit.core.mp4 import read_mp4, write_mp4
from qdit.metrics import clips as chunks
from qdit.metrics.vbench.clips import check_clips, clips_in, write_clips

SUITE = [
    {"prompt_en": "a red 2", "dimension": ["temporal_flickering", "scene"]},
    {"prompt_en": "a blue 4", "dimension": ["scene"]},
]


def noise(frames: int = 4, side: int = 16) -> np.ndarray:
    return np.random.default_rng(frames).integers(256, size=(frames, side, side, 3), dtype=np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "suite.json").write_text(json.dumps(SUITE))
    for prompt in ("a red 2", "a blue 4"):
        for number in range(2):
            write_mp4(tmp_path / "clips" / f"{prompt}-{number}.mp4", noise(), fps=8)
    return tmp_path


def check(place: Path, *dimensions: str, samples: int = 2, frames: int | None = None) -> tuple[int, int]:
    return check_clips(place / "clips", place / "suite.json", dimensions or ["scene"], samples=samples, frames=frames)


def test_each_clip_is_looked_at_once(place: Path) -> None:
    assert check(place) == (4, 4)
    assert check(place, "temporal_flickering") == (2, 4)
    assert check(place, "scene", "temporal_flickering", frames=4) == (4, 4)


def test_a_missing_clip(place: Path) -> None:
    (place / "clips" / "a blue 4-1.mp4").unlink()
    assert check(place, "temporal_flickering") == (2, 4)
    with pytest.raises(DataError, match="1 of 4 clips are missing or empty, first 'a blue 4-1.mp4'; nothing is scored"):
        check(place)


def test_a_truncated_clip(place: Path) -> None:
    path = place / "clips" / "a blue 4-1.mp4"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a blue 4-1\.mp4: .*truncated"):
        check(place)


def test_a_clip_with_another_number_of_frames(place: Path) -> None:
    with pytest.raises(DataError, match="has 4 frames, allowed are exactly 51"):
        check(place, frames=51)
    write_mp4(place / "clips" / "a blue 4-1.mp4", noise(3), fps=8)
    with pytest.raises(DataError, match=r"a blue 4-1\.mp4: has 3 frames, allowed are exactly 4"):
        check(place)


def test_a_clip_of_another_size(place: Path) -> None:
    write_mp4(place / "clips" / "a blue 4-1.mp4", noise(side=18), fps=8)
    with pytest.raises(DataError, match=r"frames are \(18, 18\), those of the first clip \(16, 16\)"):
        check(place)


def test_a_dimension_without_prompts(place: Path) -> None:
    with pytest.raises(DataError, match="has no prompt for color"):
        check(place, "color")


def test_a_folder_is_read_in_the_order_of_names(place: Path) -> None:
    write_mp4(place / "clips" / "0.mp4", noise(5), fps=8, lossless=True)
    found = clips_in(place / "clips")
    assert len(found) == 5 and [path.name for path in found.paths[:2]] == ["0.mp4", "a blue 4-0.mp4"]
    assert np.array_equal(next(iter(found)), noise(5)) and len(list(found)) == 5
    with pytest.raises(DataError, match="0 MP4 clips"):
        clips_in(place)


Chunk = list[tuple[str, int]]


def write_run(folder: Path, *chunks: Chunk, shape: tuple[int, ...] = (3, 4, 12, 18)) -> np.ndarray:
    """Chunks with these clips, and their list; returns the frames."""
    count, entries = sum(map(len, chunks)), []
    frames = np.random.default_rng(0).integers(256, size=(count, *shape), dtype=np.uint8)
    first = 0
    for number, names in enumerate(chunks):
        path, own = folder / f"{number:05d}.npz", frames[first : first + len(names)]
        columns = {"prompts": np.array([prompt for prompt, _ in names]), "numbers": np.array([n for _, n in names])}
        save_arrays(path, {"frames": own, **columns})
        entries.append({"file": path.name, "sha256": sha256_file(path)})
        first += len(names)
    listing = {"key": "k", "images": count, "chunk": 2, "mode": "simulate", "backend": "torch", "chunks": entries}
    write_json(folder / "shard-000.json", listing)
    return frames


RUN: tuple[Chunk, Chunk] = ([("a red 2", 0), ("a red 2", 1)], [("a blue 4", 0)])


def test_a_run_of_any_size_is_written_under_vbenchs_names(tmp_path: Path) -> None:
    frames = write_run(tmp_path, *RUN)
    listing = write_clips(tmp_path, tmp_path / "mp4", clips=3, fps=24, enlarge=2, lossless=True)
    assert list(listing["clips"]) == ["a red 2-0.mp4", "a red 2-1.mp4", "a blue 4-0.mp4"]
    assert (listing["frames"], listing["size"], listing["fps"]) == (4, [24, 36], 24)
    assert all(sha256_file(tmp_path / "mp4" / name) == digest for name, digest in listing["clips"].items())
    found = read_mp4(tmp_path / "mp4" / "a blue 4-0.mp4", frames=4)
    assert np.array_equal(found[:, ::2, ::2], frames[2].transpose(1, 2, 3, 0))
    assert np.array_equal(found[:, 1::2, 1::2], found[:, ::2, ::2])


def test_one_chunk_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, *([(f"prompt {number}", 0)] for number in range(6)))
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    read = chunks.load_arrays

    def watched(path: Path) -> dict[str, np.ndarray]:
        nonlocal most
        found = read(path)
        most = max(most, sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(found["frames"]))
        return found

    monkeypatch.setattr(chunks, "load_arrays", watched)
    write_clips(tmp_path, tmp_path / "mp4", clips=6, fps=8, lossless=True)
    assert len(alive) == 6 and most <= 1, "the chunk before the one that is read, at most"


def test_what_of_a_run_cannot_be_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [("a red 2", 0)], [("a red 2", 0)])
    with pytest.raises(DataError, match=r"'a red 2-0\.mp4' cannot be the name of one clip"):
        write_clips(tmp_path / "a", tmp_path / "mp4", clips=2, fps=8, lossless=True)
    write_run(tmp_path / "b", *RUN)
    with pytest.raises(DataError, match="is a run of 3 images, 4 are expected"):
        write_clips(tmp_path / "b", tmp_path / "mp4", clips=4, fps=8)
    (tmp_path / "b" / "00001.npz").unlink()
    with pytest.raises(DataError, match=r"00001\.npz: missing, or not the file that its shard lists"):
        write_clips(tmp_path / "b", tmp_path / "mp4", clips=3, fps=8, lossless=True)
    listing = read_json(tmp_path / "b" / "shard-000.json")
    write_json(tmp_path / "b" / "shard-000.json", listing | {"chunks": listing["chunks"][:1]})
    with pytest.raises(DataError, match="holds 2 clips, 3 are expected"):
        write_clips(tmp_path / "b", tmp_path / "mp4", clips=3, fps=8, lossless=True)
