"""The step that makes sample chunks from clips of another program (MP4 files with VBench's names)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.files import sha256_file, sha256_json
from qdit.core.metrics_record import FLOW
from qdit.core.mp4 import frames_per_second, read_mp4
from qdit.core.run import IMPORTED
from qdit.metrics.clips import read_chunk
from qdit.metrics.imported import MODE, NO_CHECKPOINT
from qdit.metrics.samples import listed_shards
from qdit.metrics.statement import require_same, stated_protocol
from qdit.sampling.chunks import Shard, make_chunks
from qdit.sampling.family import Arrays
from qdit.sampling.origin import PAIRED, Origin

COLUMNS = ("frames", "prompts", "numbers")


def import_clips(folder: Path, out: Path, *, clips: Sequence[tuple[str, int]], chunk: int, like: Path) -> int:
    """Write the files `<prompt>-<number>.mp4` of a folder as one shard of chunks in `out`; return the number of clips.

    `clips` are (prompt, number) of every clip of a run, in order. `like` is a folder of full-precision samples: the
    clips must have their number of frames, size and frames per second, and are paired with them if the folder states
    their protocol. DataError, with one line, for a clip that is missing, a link, damaged or of another kind, and for
    other clips in the folder.
    """
    paths = named_files(folder, clips)
    first = listed_shards(like)[0]
    if first.failure is not None:
        raise DataError(f"{like}: holds no clips, {first.failure.text}")
    origin = first.made_of()
    shape = read_chunk(like, first.chunks[0], key=first.key).frames.shape[1:]
    stated = stated_protocol(folder)
    if stated is not None:
        require_same(folder, stated, {**origin.protocol, "sampler": FLOW})
    require_speed(paths, origin.protocol)
    shard = Shard(len(clips), chunk, 0, -(-len(clips) // chunk), "clips")
    digest = sha256_json({path.name: sha256_file(path) for path in paths})
    described = Origin(
        family=IMPORTED,
        protocol=dict(stated or {}),
        shape=(),
        chunk=chunk,
        checkpoint_sha256=NO_CHECKPOINT,
        model={
            "method": IMPORTED,
            "source": {"name": folder.name, "sha256": digest},
            PAIRED: stated is not None,
        },
        mode={"name": IMPORTED, "backend": "none"},
        code=code_digest("qdit.metrics.imported_clips"),
        prompts={"count": len(clips), "sha256": sha256_json([list(pair) for pair in clips])},
    ).to_dict()

    def make(samples: range, count: int) -> Arrays:
        numbers = range(samples.start, samples.start + count)
        frames = [read_frames(paths[number], shape) for number in numbers]
        named = [clips[number] for number in numbers]
        prompts, counted = zip(*named, strict=True)
        return {"frames": np.stack(frames), "prompts": np.array(prompts), "numbers": np.array(counted)}

    chunks = make_chunks(shard, out, described, COLUMNS, make)
    shard.write(out, MODE, {**shard.listing(described), "chunks": chunks})
    return len(clips)


def named_files(folder: Path, clips: Sequence[tuple[str, int]]) -> list[Path]:
    """Path of the file of each clip. DataError for missing files, links, and other MP4 files in the folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one of <prompt>-<number>.mp4, numbers from 0")
    paths = [folder / f"{prompt}-{number}.mp4" for prompt, number in clips]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(
            f"{folder}: {len(missing)} of {len(paths)} clips are missing, first {missing[0]!r}; names are"
            " <prompt>-<number>.mp4, numbers from 0"
        )
    if links := [path.name for path in paths if path.is_symlink()]:
        raise DataError(f"{folder}: {links[0]!r} is a link; copy the clip itself into the folder")
    if others := sorted({path.name for path in folder.glob("*.mp4")} - {path.name for path in paths}):
        raise DataError(f"{folder}: holds {len(others)} clips of no prompt, first {others[0]!r}; remove them")
    return paths


def require_speed(paths: Sequence[Path], protocol: Mapping[str, Any]) -> None:
    """Raise DataError unless every clip has the frames per second of the protocol."""
    for path in paths:
        if (fps := frames_per_second(path)) != protocol["fps"]:
            raise DataError(
                f"{path}: has {fps:g} frames per second, full precision has {protocol['fps']}; encode it anew"
            )


def read_frames(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the frames uint8 (3, T, H, W) of a clip; DataError for another number of frames or another size."""
    frames = read_mp4(path, frames=shape[1])
    if frames.shape[1:3] != shape[2:]:
        raise DataError(
            f"{path}: frames are {frames.shape[1:3]}, those of full precision {tuple(shape[2:])}; give that size"
        )
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2))
