"""MP4 files of clips (PyAV, H.264). Equal clips give files with equal bytes; files are read frame by frame."""

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

from qdit.core.errors import DataError
from qdit.core.files import atomic_path

QUALITY = {"crf": "12", "preset": "medium", "x264-params": "mbtree=0"}
"""Options for clips that people watch: small loss, colours at half the resolution. Every browser plays them.

x264's macroblock tree (`mbtree`) reads memory that it did not write, so equal frames would give different bytes.
"""
LOSSLESS = {"qp": "0", "preset": "medium"}
"""Options for clips that are measured: RGB without loss. Not every player can show them."""
BIT_EXACT = {"fflags": "+bitexact", "movflags": "+faststart"}
"""No times or names of programs in the file; its index comes first."""


def write_mp4(path: Path, frames: np.ndarray, *, fps: float, lossless: bool = False) -> None:
    """Write a clip of RGB frames uint8 (T, H, W, 3), completely or not at all. Equal frames give equal bytes.

    Raises DataError on other shapes and types, and on odd sides unless `lossless` (colours are stored for 2×2 pixels).
    """
    description = f"{path}: frames are {frames.dtype} {frames.shape}"
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise DataError(f"{description}, allowed is uint8 (frames, height, width, 3); convert them first")
    _, height, width, _ = frames.shape
    if not lossless and (height % 2 or width % 2):
        raise DataError(f"{description}; a side that is odd needs lossless=True, or crop the clip by one pixel")
    rate = Fraction(fps).limit_denominator(1001)
    codec, pixels, options = ("libx264rgb", "rgb24", LOSSLESS) if lossless else ("libx264", "yuv420p", QUALITY)
    with atomic_path(path) as temporary, av.open(temporary, "w", format="mp4", options=BIT_EXACT) as container:
        # One thread and the bit-exact flag: neither the machine nor the day changes a byte.
        exact = {**options, "threads": "1", "flags": "+bitexact"}
        stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=exact))
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def read_mp4(path: Path, *, frames: int | None = None) -> np.ndarray:
    """Read a clip as RGB frames uint8 (T, H, W, 3).

    Raises DataError, with a message of one line, if the file is missing, is not a video, is truncated (fewer frames
    than its index lists), or does not have exactly `frames` frames.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such clip; sample it again")
    try:
        with av.open(path) as container:
            stream = video_stream(path, container)
            listed = stream.frames
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (FFmpegError, ValueError) as problem:
        raise DataError(
            f"{path}: not a readable video ({' '.join(str(problem).split())[:120]}); found {path.stat().st_size} bytes;"
            " it is truncated or another kind of file: write it again"
        ) from None
    if len(shown) < max(listed, 1):
        raise DataError(f"{path}: {len(shown)} of its {listed} frames can be read; it is truncated: write it again")
    if frames is not None and len(shown) != frames:
        raise DataError(f"{path}: has {len(shown)} frames, allowed are exactly {frames}; sample it again")
    return np.stack(shown)


def frames_per_second(path: Path) -> float:
    """Frames per second of a clip, as its file says; DataError if it is not a video."""
    try:
        with av.open(path) as container:
            return float(video_stream(path, container).average_rate or 0)
    except (FFmpegError, ValueError) as problem:
        raise DataError(
            f"{path}: not a readable video ({' '.join(str(problem).split())[:120]}); write it again"
        ) from None


def video_stream(path: Path, container: av.container.InputContainer) -> VideoStream:
    """The only video stream of an opened file; DataError if the file has none or several."""
    if len(container.streams.video) != 1:
        raise DataError(f"{path}: has {len(container.streams.video)} video streams, allowed is one; write it again")
    return container.streams.video[0]
