"""Sample chunks of clips: fixed batches, one file each, the same bits whoever makes them (`qdit.sampling.chunks`).

Clip i shows its prompt, and its noise depends on (root seed, i) only, so every method sees the same. Models of the mini
video world make pixels and read words; full-size ones make latents, which a VAE decodes, and read the tokens of a text
encoder, which are computed once for all (`qdit.models.text_encoder`).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qdit.core.digest import code_digest
from qdit.core.disk import require_room
from qdit.core.errors import Diverged
from qdit.core.failure import Failure, recording
from qdit.core.files import sha256_json
from qdit.models.stdit3 import STDiT3
from qdit.quant.checkpoint import load_video_checkpoint
from qdit.quant.correction import NoiseCorrection
from qdit.quant.folder import checkpoint_sha256
from qdit.quant.sites import prepare_inference
from qdit.sampling.chunks import SIMULATE, Arrays, Shard, handed_on, make_chunks
from qdit.sampling.precision import CPU, round_linears, torch_device
from qdit.sampling.prompts import Texts, check_sources, load_texts, texts_identity, words
from qdit.sampling.rectified_flow import FlowProtocol, clip_size, sample_clips
from qdit.sampling.video_decoding import CLIP_PIXELS, ClipDecoder, load_video_decoder, video_decoder_name
from qdit.sampling.words import WORDS_MODULE

Asked = Sequence[tuple[str, int]]
"""(prompt, number of the clip among those of the same prompt) of every clip of a run."""

COLUMNS = ("frames", "prompts", "numbers")


def clips_of(
    model: STDiT3,
    protocol: FlowProtocol,
    asked: Asked,
    clips: range,
    *,
    correction: NoiseCorrection | None = None,
    texts: Texts = words,
    decoder: ClipDecoder = CLIP_PIXELS,
    count: int | None = None,
) -> Tensor:
    """Clips uint8 (N, 3, T, H, W) with these indices as one batch; indices beyond the last begin again.

    Of the batch the first `count` are decoded and given, all by default.
    """
    text, mask = texts([asked[clip % len(asked)][0] for clip in clips])
    size = clip_size(model.config, protocol)
    made = sample_clips(model, protocol, text, mask, clips, latent_size=size, correction=correction)
    if not torch.isfinite(made).all():
        raise Diverged("sampled clips hold NaN or infinity; the quantized model diverges at these bits")
    return decoder(made[:count])


def video_run_key(
    checkpoint: Path,
    protocol: FlowProtocol,
    asked: Asked,
    chunk: int,
    *,
    embeddings: Path | None = None,
    device: torch.device = CPU,
) -> str:
    """Identifies everything that the clips of a run depend on; of the device the kind, as for images."""
    return sha256_json(
        {
            "checkpoint": checkpoint_sha256(checkpoint),
            "protocol": protocol.to_dict(),
            "asked": [list(pair) for pair in asked],
            "chunk": chunk,
            "mode": SIMULATE.on(device),
            "code": code_digest("qdit.sampling.video_run", WORDS_MODULE),
            **texts_identity(embeddings),
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
    embeddings: Path | None = None,
    vae: Path | None = None,
    device: str = "cpu",
) -> Path:
    """The step quantized checkpoint of a video model → chunks of clips of one shard, in the folder `out`.

    A model of latents needs the `embeddings` of its prompts and the `vae` that decodes them, one of pixels neither; the
    protocol's `decoder` is taken from it. Chunks that are there for the same key are kept. Failures are recorded as in
    `qdit.sampling.run`. Raises ConfigError for counts below one, a shard beyond the last and files of another model,
    DataError for prompts without embeddings and a disk without room, all before anything is sampled.
    """
    place, part = torch_device(device), Shard(len(asked), chunk, shard, chunks_per_shard, "clips")
    protocol = replace(protocol, decoder=video_decoder_name(vae))
    key = video_run_key(checkpoint, protocol, asked, chunk, embeddings=embeddings, device=place)

    def write(failure: Failure) -> None:
        part.write(out, SIMULATE, {**part.listing(key), **protocol.unusual(), **failure.to_dict()}, device=place)

    if handed_on(checkpoint, write):
        return part.path(out)
    loaded = load_video_checkpoint(checkpoint)
    config = loaded.model.config
    check_sources(checkpoint, config, text=embeddings, vae=vae)
    texts = load_texts(embeddings, config, [prompt for prompt, _ in asked])
    if loaded.correction is not None:
        loaded.correction.check(protocol.steps)
    decoder = load_video_decoder(vae, config, protocol, device=place)
    require_room(out, part.size * decoder.clip_bytes(clip_size(config, protocol)), "the clips of a shard")

    with recording("sample", write, enabled=record_failure):
        model = prepare_inference(round_linears(loaded.model.to(place), protocol.dtype))

        def make(path: Path, batch: range, count: int) -> Arrays:
            own = asked[batch.start : batch.start + count]
            frames = clips_of(
                model,
                protocol,
                asked,
                batch,
                correction=loaded.correction,
                texts=texts,
                decoder=decoder,
                count=count,
            )
            prompts, numbers = zip(*own, strict=True)
            return {"frames": frames.numpy(), "prompts": np.array(prompts), "numbers": np.array(numbers)}

        made = make_chunks(part, out, key, COLUMNS, make)
        part.write(out, SIMULATE, {**part.listing(key), **protocol.unusual(), "chunks": made}, device=place)
    return part.path(out)
