"""Clips for VBench: writing them as MP4 files with VBench's names, and checking a folder of such files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qdit.core.errors import DataError
from qdit.core.files import sha256_file
from qdit.core.mp4 import read_mp4, write_mp4
from qdit.metrics.clips import samples_sha256, stream_clips
from qdit.metrics.job import sampling_failure
from qdit.metrics.vbench.driver import BadInput, clip_names, read_suite, require_clips


def write_clips(
    samples: Path, out: Path, *, clips: int, fps: float, enlarge: int = 1, lossless: bool = False
) -> dict[str, Any]:
    """Write the sample chunks of a run as `out`/<prompt>-<number>.mp4, one chunk at a time.

    The function returns the list of files. Each pixel becomes `enlarge` × `enlarge` pixels. A failed run has no clips,
    and its list gives the reason. DataError unless there are exactly `clips` complete clips of one size, each with its
    own name.
    """
    if failure := sampling_failure(samples, clips):
        return failure.to_dict()
    digests: dict[str, str] = {}
    shape: tuple[int, ...] = ()
    with tqdm(total=clips, desc="writing clips", unit="clip", mininterval=1) as bar:
        for chunk in stream_clips(samples, clips=clips):
            shape = shape or chunk.frames.shape[1:]
            if chunk.frames.shape[1:] != shape:
                raise DataError(f"{samples}: has clips of {chunk.frames.shape[1:]} beside {shape}; sample it again")
            for clip, (prompt, number) in zip(chunk.frames, chunk.names, strict=True):
                name = f"{prompt}-{number}.mp4"
                if "/" in name or name in digests:
                    raise DataError(f"{samples}: {name!r} cannot be the name of one clip; change the prompt")
                frames = clip.transpose(1, 2, 3, 0).repeat(enlarge, axis=1).repeat(enlarge, axis=2)
                write_mp4(out / name, np.ascontiguousarray(frames), fps=fps, lossless=lossless)
                digests[name] = sha256_file(out / name)
                bar.update()
    _, frame_count, height, width = shape
    size = [height * enlarge, width * enlarge]
    encoding = {"frames": frame_count, "size": size, "fps": fps, "lossless": lossless}
    return {"clips": digests, **encoding, "samples_sha256": samples_sha256(samples, clips=clips)}


def check_clips(
    folder: Path, suite: Path, dimensions: Sequence[str], *, samples: int, frames: int | None = None
) -> tuple[int, int]:
    """Check the clips that these dimensions need; return their number and the number of frames of each clip.

    DataError, with one line, if the suite is invalid, or if a clip is missing, truncated or no video. All clips must
    have the same size and `frames` frames (default: those of the first clip), because VBench does not check this.
    """
    names: dict[str, None] = {}
    try:
        rows = read_suite(suite)
        for dimension in dimensions:
            names |= dict.fromkeys(clip_names(rows, dimension, samples))
        require_clips(folder, list(names))
    except BadInput as problem:
        raise DataError(str(problem)) from None
    if not names:
        raise DataError(f"{suite}: has no prompt for {', '.join(dimensions)}; give the suite of these dimensions")
    size: tuple[int, ...] | None = None
    for name in tqdm(names, desc="reading clips", unit="clip", mininterval=1):
        shape = read_mp4(folder / name, frames=frames if size is None else size[0]).shape
        if size is not None and shape != size:
            raise DataError(
                f"{folder / name}: frames are {shape[1:3]}, those of the first clip {size[1:3]}; sample again"
            )
        size = shape
    assert size is not None
    return len(names), size[0]


@dataclass(frozen=True)
class Coverage:
    """How a folder of clips covers a prompt suite.

    It holds the number of clips of each dimension, the dimensions without a prompt, and the clips that no prompt needs.
    """

    clips: Mapping[str, int]
    without_prompts: tuple[str, ...]
    unexpected: tuple[str, ...]


def coverage(folder: Path, suite: Path, dimensions: Sequence[str], *, samples: int) -> Coverage:
    """How a folder of clips covers the suite in these dimensions; DataError if the file is not a suite."""
    try:
        rows = read_suite(suite)
        names = {dimension: clip_names(rows, dimension, samples) for dimension in dimensions}
    except BadInput as problem:
        raise DataError(str(problem)) from None
    wanted = {name for clips in names.values() for name in clips}
    unexpected = tuple(sorted(path.name for path in folder.glob("*.mp4") if path.name not in wanted))
    return Coverage(
        clips={dimension: len(clips) for dimension, clips in names.items() if clips},
        without_prompts=tuple(dimension for dimension, clips in names.items() if not clips),
        unexpected=unexpected,
    )


@dataclass(frozen=True)
class ClipFolder:
    """Clips of a folder in the order of their names, read one at a time."""

    paths: tuple[Path, ...]
    frames: int | None

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read_mp4(path, frames=self.frames) for path in self.paths)


def clips_in(folder: Path, *, frames: int | None = None) -> ClipFolder:
    """All MP4 files of a folder, read one at a time; DataError if there are fewer than two."""
    paths = tuple(sorted(folder.glob("*.mp4")))
    if len(paths) < 2:
        raise DataError(f"{folder}: has {len(paths)} MP4 clips, at least 2 are needed for a covariance; sample more")
    return ClipFolder(paths, frames)
