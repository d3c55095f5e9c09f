"""MP4 clips: exact and near round trips, equal bytes, and one line for every file that is not the clip."""

from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.mp4 import read_mp4, write_mp4


def moving_square() -> np.ndarray:
    """A yellow square that moves to the right on a growing blue, 8 frames of 64×64."""
    clip = np.zeros((8, 64, 64, 3), np.uint8)
    clip[..., 2] = 30 * np.arange(8, dtype=np.uint8)[:, None, None]
    for frame, image in enumerate(clip):
        image[24:40, 4 * frame : 4 * frame + 16] = (230, 210, 40)
    return clip


def test_lossless_is_exact_for_noise_and_odd_sides(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(5, 17, 23, 3), dtype=np.uint8)
    write_mp4(tmp_path / "clip.mp4", noise, fps=8, lossless=True)
    assert np.array_equal(read_mp4(tmp_path / "clip.mp4"), noise)


def test_what_people_look_at_is_near(tmp_path: Path) -> None:
    clip = moving_square()
    write_mp4(tmp_path / "clip.mp4", clip, fps=8)
    result = read_mp4(tmp_path / "clip.mp4", frames=8)
    assert result.shape == clip.shape
    gaps = np.abs(result[:, None].astype(int) - clip[None]).mean(axis=(2, 3, 4))
    assert gaps.diagonal().max() < 3
    assert gaps.argmin(axis=1).tolist() == list(range(8))


@pytest.mark.parametrize("lossless", [False, True])
def test_equal_clips_give_equal_bytes_under_any_name(tmp_path: Path, lossless: bool) -> None:
    names = ["a red 2 moving left-0.mp4", "other.mp4"]
    for name in names:
        write_mp4(tmp_path / name, moving_square(), fps=8, lossless=lossless)
    first, second = ((tmp_path / name).read_bytes() for name in names)
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_what_lies_in_memory_changes_no_byte(tmp_path: Path) -> None:
    """A clip of blocks that repeat, large enough that an encoder which reads unwritten memory gives other bytes."""
    draw = np.random.default_rng(0)
    blocks = draw.integers(256, size=(8, 16, 34, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    clip = np.concatenate([blocks] * 4)
    files = set()
    for _ in range(4):
        used = [np.full(size, draw.integers(256), np.uint8) for size in draw.integers(1, 600_000, size=40)]
        del used[::2]  # the encoder gets this memory, with what was in it
        write_mp4(tmp_path / "clip.mp4", clip, fps=8)
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("fps", [8, 24, 30000 / 1001])
def test_the_rate_is_in_the_file(tmp_path: Path, fps: float) -> None:
    import av

    write_mp4(tmp_path / "clip.mp4", moving_square(), fps=fps)
    with av.open(tmp_path / "clip.mp4") as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(fps)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, lossless: bool) -> None:
    noise = np.random.default_rng(0).integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write_mp4(whole, noise, fps=8, lossless=lossless)
    content = whole.read_bytes()
    for part in (0, 10, 200, len(content) // 4, len(content) // 2, len(content) * 3 // 4, len(content) - 1):
        cut.write_bytes(content[:part])
        with pytest.raises(DataError, match=r"truncated") as caught:
            read_mp4(cut)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such clip"), (b"", "not a readable video"), (b"RIFF" * 100, "not a readable video")],
)
def test_what_is_no_clip_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_mp4(tmp_path / "clip.mp4")


def test_another_number_of_frames_is_refused(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_square(), fps=8)
    with pytest.raises(DataError, match="has 8 frames, allowed are exactly 16"):
        read_mp4(tmp_path / "clip.mp4", frames=16)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((3, 8, 8, 3)), r"float64 \(3, 8, 8, 3\), allowed is uint8"),
        (np.zeros((3, 3, 8, 8), np.uint8), "allowed is uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "allowed is uint8"),
        (np.zeros((3, 7, 8, 3), np.uint8), "odd"),
    ],
)
def test_what_is_no_list_of_frames_is_not_written(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_mp4(tmp_path / "clip.mp4", frames, fps=8)
    assert list(tmp_path.iterdir()) == []
