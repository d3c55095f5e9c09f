"""Sample chunks of clips, for models that make pixels of the mini video world: as `qdit.sampling.run` does for images.

Clip i shows its prompt, and its noise depends on (root seed, i) only, so every method sees the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qdit.artifacts import load_arrays, save_arrays, sha256_file, sha256_json
from qdit.data.moving_digits_prompts import encode, parse_prompt
from qdit.data.pixels import to_uint8
from qdit.digest import code_digest
from qdit.errors import ConfigError, DataError
from qdit.failure import Failure, recording, say
from qdit.models.stdit3 import STDiT3
from qdit.quant.checkpoint import VideoCheckpoint, load_video_checkpoint
from qdit.quant.correction import NoiseCorrection
from qdit.quant.folder import checkpoint_sha256, read_failure
from qdit.quant.sites import prepare_inference
from qdit.sampling.rectified_flow import FlowProtocol, clip_size, sample_clips
from qdit.sampling.run import SIMULATE, chunk_path, is_of_the_model, write_shard

Asked = Sequence[tuple[str, int]]
"""(prompt, number of the clip among those of the same prompt) of every clip of a run."""


def clips_of(
    model: STDiT3, protocol: FlowProtocol, asked: Asked, clips: range, *, correction: NoiseCorrection | None = None
) -> Tensor:
    """Clips uint8 (N, 3, T, H, W) with these indices as one batch; indices beyond the last begin again."""
    text, mask = encode(tuple(parse_prompt(asked[clip % len(asked)][0]) for clip in clips))
    size = clip_size(model.config, protocol)
    pixels = sample_clips(model, protocol, text, mask.bool(), clips, latent_size=size, correction=correction)
    if not torch.isfinite(pixels).all():
        raise DataError("sampled clips hold NaN or infinity; the quantized model diverges at these bits")
    return to_uint8(pixels)


def is_current(path: Path, key: str, count: int) -> bool:
    """Whether a chunk file is whole, was made for this key and holds `count` clips."""
    if not path.exists():
        return False
    try:
        arrays = load_arrays(path)
        return str(arrays["key"]) == key and len(arrays["frames"]) == len(arrays["prompts"]) == count
    except (DataError, KeyError):
        return False


def sample_shard(
    checkpoint: VideoCheckpoint,
    protocol: FlowProtocol,
    asked: Asked,
    *,
    chunks: range,
    chunk: int,
    folder: Path,
    key: str,
) -> list[dict[str, str]]:
    """Compute those of the chunks that are missing; returns the list of all, with their digests."""
    model = prepare_inference(checkpoint.model)
    for number in tqdm(chunks, desc="sampling clips", unit="chunk", mininterval=1):
        path, first = chunk_path(folder, number), number * chunk
        own = asked[first : first + chunk]
        if not is_current(path, key, len(own)):
            clips = range(first, first + chunk)
            frames = clips_of(model, protocol, asked, clips, correction=checkpoint.correction)[: len(own)]
            prompts, numbers = zip(*own, strict=True)
            arrays = {"frames": frames.numpy(), "prompts": np.array(prompts), "numbers": np.array(numbers)}
            save_arrays(path, arrays | {"first": np.int64(first), "key": np.array(key)})
    return [{"file": path.name, "sha256": sha256_file(path)} for path in (chunk_path(folder, n) for n in chunks)]


def video_run_key(checkpoint: Path, protocol: FlowProtocol, asked: Asked, chunk: int) -> str:
    """Identifies everything that the clips of a run depend on."""
    return sha256_json(
        {
            "checkpoint": checkpoint_sha256(checkpoint),
            "protocol": protocol.to_dict(),
            "asked": [list(pair) for pair in asked],
            "chunk": chunk,
            "mode": {"name": SIMULATE.name, "backend": SIMULATE.backend()},
            "code": code_digest("qdit.sampling.video_run"),
        }
    )


def sample_video_checkpoint(
    checkpoint: Path,
    out: Path,
    protocol: FlowProtocol,
    asked: Asked,
    *,
    chunk: int,
    shard: int = 0,
    chunks_per_shard: int = 1_000_000,
    record_failure: bool = False,
) -> Path:
    """The step quantized checkpoint of a video model → chunks of clips of one shard, in the folder `out`.

    Chunks that are there for the same key are kept. Failures are recorded as in `qdit.sampling.run`. Raises
    ConfigError for counts below one, a shard beyond the last, and models whose clips are latents.
    """
    total = -(-len(asked) // chunk) if chunk > 0 else 0
    chunks = range(shard * chunks_per_shard, min((shard + 1) * chunks_per_shard, total))
    if shard < 0 or not chunks:
        raise ConfigError(
            f"shard {shard} of {chunks_per_shard} chunks: {len(asked)} clips in chunks of {chunk} have {total} chunks;"
            " ask for one of these"
        )
    key = video_run_key(checkpoint, protocol, asked, chunk)
    listing = {"key": key, "images": len(asked), "chunk": chunk, "chunks": []}

    def write(failure: Failure) -> None:
        write_shard(out, shard, SIMULATE, listing | failure.to_dict())

    if failure := read_failure(checkpoint):
        write(failure)
        say(failure.text)
        return out / f"shard-{shard:03d}.json"
    loaded = load_video_checkpoint(checkpoint)
    if loaded.model.config.pixels_per_cell != 1 or loaded.model.config.in_channels != 3:
        raise ConfigError(
            f"{checkpoint}: makes latents of {loaded.model.config.in_channels} channels, this step is for models of"
            " RGB pixels; use qdit.sampling.rectified_flow.sample_clips and the VAE"
        )
    if loaded.correction is not None:
        loaded.correction.check(protocol.steps)
    with recording("sample", write, recordable=lambda problem: record_failure and is_of_the_model(problem)):
        made = sample_shard(loaded, protocol, asked, chunks=chunks, chunk=chunk, folder=out, key=key)
        write_shard(out, shard, SIMULATE, listing | {"chunks": made})
    return out / f"shard-{shard:03d}.json"
