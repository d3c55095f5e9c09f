"""Reading of a run's clips, chunk by chunk. They are checked against the lists that the sampling jobs wrote.

A clip of 51 frames of 144×256 has 5.6 MB, and a run of VBench's prompts has 27 GB. So only one chunk is in memory at a
time. Nothing here loads torch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, sha256_file, sha256_json
from qdit.core.pixels import UINT8_RULE
from qdit.core.run import IMPORTED
from qdit.metrics.job import EvaluateJob, SampledRun
from qdit.metrics.paired import PixelComparison, compare_clips, stream_comparison, stream_errors
from qdit.metrics.samples import ListedChunk, check_origin, listed_shards
from qdit.models.config import STDiT3Config
from qdit.quant.folder import read_config
from qdit.sampling.flops import clip_flops
from qdit.sampling.flow_protocol import FlowProtocol

Frames = Iterable[np.ndarray]
Compared = TypeVar("Compared")


@dataclass(frozen=True)
class ClipChunk:
    """Clips of one chunk: frames uint8 (n, 3, T, H, W), and (prompt, number) of each of the n clips."""

    frames: np.ndarray
    names: tuple[tuple[str, int], ...]


def stream_clips(folder: Path, *, clips: int) -> Iterator[ClipChunk]:
    """Yield all clips of a run in order, chunk by chunk; only one chunk is in memory at a time.

    `folder` holds `shard-*.json` and the listed chunk files. Raises DataError, at the latest after the last chunk,
    unless there are exactly `clips` complete, unchanged clips.
    """
    shards = listed_shards(folder, images=clips)
    listed = {chunk: shard.key for shard in shards for chunk in shard.chunks}
    count = 0
    for chunk in sorted(listed, key=lambda chunk: (len(chunk.file), chunk.file)):
        loaded = read_chunk(folder, chunk, key=listed[chunk])
        count += len(loaded.names)
        yield loaded
    if count != clips:
        raise DataError(f"{folder}: holds {count} clips, {clips} are expected; sample the other shards too")


def samples_sha256(folder: Path, *, clips: int) -> str:
    """Digest of all clips of a run, computed from the digests of its chunk files.

    Files that are made from the clips store it.
    """
    return sha256_json(sorted({chunk for shard in listed_shards(folder, images=clips) for chunk in shard.chunks}))


def read_chunk(folder: Path, listed: ListedChunk, *, key: str | None = None) -> ClipChunk:
    """Read one chunk file of clips and check it against its entry in the list."""
    path = folder / listed.file
    if not path.is_file() or sha256_file(path) != listed.sha256:
        raise DataError(f"{path}: missing, or not the file that its shard lists; sample again")
    arrays = load_arrays(path)
    if missing := {"frames", "prompts", "numbers"} - arrays.keys():
        raise DataError(f"{path}: has no {', '.join(sorted(missing))}; sample again")
    if key is not None:
        check_origin(path, arrays, key)
    frames, prompts, numbers = arrays["frames"], arrays["prompts"], arrays["numbers"]
    if frames.dtype != np.uint8 or frames.ndim != 5 or not len(frames) == len(prompts) == len(numbers):
        raise DataError(
            f"{path}: frames are {frames.dtype} {frames.shape} of {len(prompts)} prompts; allowed is uint8 (clips, 3,"
            " frames, height, width) with a prompt for each clip: sample again"
        )
    return ClipChunk(frames, tuple((str(p), int(n)) for p, n in zip(prompts, numbers, strict=True)))


def stream_clip_errors(samples: Path, fp_samples: Path, *, clips: int) -> np.ndarray:
    """Mean squared difference (N,) of each clip's pixels, in [0, 1], to the full-precision clip of the same noise.

    Raises DataError unless both runs hold `clips` clips of the same prompts in the same order.
    """
    return _of_pairs(samples, fp_samples, clips, stream_errors)


def compared_clips(samples: Path, fp_samples: Path, *, clips: int) -> PixelComparison:
    """Compare each clip, frame by frame, with the full-precision clip of the same noise.

    Raises DataError unless both runs hold `clips` clips of the same prompts in the same order.
    """
    return _of_pairs(samples, fp_samples, clips, lambda of, full: stream_comparison(of, full, compare_clips))


def _of_pairs(samples: Path, fp_samples: Path, clips: int, compare: Callable[[Frames, Frames], Compared]) -> Compared:
    """Results of `compare` for the frames (1, 3, T, H, W) of each clip of two runs; DataError if prompts differ."""
    names: tuple[list[tuple[str, int]], ...] = ([], [])

    def frames_of(folder: Path, seen: list[tuple[str, int]]) -> Iterator[np.ndarray]:
        for chunk in stream_clips(folder, clips=clips):
            seen.extend(chunk.names)
            yield from (chunk.frames[row : row + 1] for row in range(len(chunk.frames)))

    compared = compare(frames_of(samples, names[0]), frames_of(fp_samples, names[1]))
    if names[0] != names[1]:
        raise DataError(
            f"{samples}: its clips and those of full precision ({fp_samples}) show different prompts; sample both with"
            " the same suite"
        )
    return compared


def clip_protocol(job: EvaluateJob, sampled: SampledRun) -> dict[str, Any]:
    """Protocol of a run's clips as metrics.json holds it, with the number of floating-point operations for one clip."""
    if sampled.origin.is_imported:
        stated = {"stated": dict(sampled.origin.protocol)} if sampled.origin.protocol else {}
        source = {"sampler": IMPORTED, "source": sampled.origin.model["source"], **stated}
        return {"model": job.name.model, **source, "images": sampled.count, "chunk": sampled.shards[0].chunk}
    if job.checkpoint is None:
        raise DataError(f"{job.samples}: were sampled from a checkpoint; give it with --checkpoint FOLDER")
    config = STDiT3Config(**read_config(job.checkpoint)["model"]["config"])
    return {
        "model": job.name.model,
        "sampler": "rectified flow",
        **sampled.protocol.to_dict(),
        "images": sampled.count,
        "clip_flops": clip_flops(config, cast("FlowProtocol", sampled.protocol)),
        "chunk": sampled.shards[0].chunk,
        "decoder": sampled.protocol.decoder,
        "uint8": UINT8_RULE,
    }
