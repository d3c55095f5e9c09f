"""A run's clips under VBench's names, and folders that VBench would score without a word though something is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdit.data.clips import read_mp4, write_mp4
from qdit.errors import DataError
from qdit.vbench_clips import check_clips, clips_in

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


def test_a_run_is_written_under_vbenchs_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from qdit import vbench_clips
    from qdit.metrics.video.evaluate import ClipSet

    frames = torch.randint(256, (3, 3, 8, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    run = ClipSet(frames, ("a red 2", "a red 2", "a blue 4"), (0, 1, 0))
    monkeypatch.setattr(vbench_clips, "read_clips", lambda folder, clips: (run, None))
    listing = vbench_clips.write_clips(tmp_path, tmp_path / "mp4", clips=3, fps=8, enlarge=2, lossless=True)
    assert list(listing["clips"]) == ["a red 2-0.mp4", "a red 2-1.mp4", "a blue 4-0.mp4"] and listing["frames"] == 8
    found = read_mp4(tmp_path / "mp4" / "a blue 4-0.mp4", frames=8)
    assert np.array_equal(found[:, ::2, ::2], frames[2].permute(1, 2, 3, 0).numpy())
    assert np.array_equal(found[:, 1::2, 1::2], found[:, ::2, ::2])
