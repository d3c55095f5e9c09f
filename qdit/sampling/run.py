"""Sample chunks of images: fixed batches, one file each, the same bits whoever makes them (`qdit.sampling.chunks`)."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qdit.core.digest import code_digest
from qdit.core.disk import require_room
from qdit.core.errors import Diverged
from qdit.core.failure import Failure, recording
from qdit.core.files import sha256_json
from qdit.models.dit import DiT
from qdit.quant.checkpoint import load_checkpoint
from qdit.quant.folder import checkpoint_sha256
from qdit.sampling.chunks import SIMULATE, Arrays, Mode, Shard, handed_on, make_chunks
from qdit.sampling.decoding import PIXELS, Decoder, load_decoder
from qdit.sampling.guidance import denoiser
from qdit.sampling.noise import initial_noise, labels, step_noise
from qdit.sampling.precision import CPU, device_of, round_linears, torch_device
from qdit.sampling.protocol import Protocol, decoder_name
from qdit.sampling.samplers import Correction, sample
from qdit.sampling.schedule import respaced


def sample_images(
    model: DiT, protocol: Protocol, images: range, *, correction: Correction | None = None
) -> tuple[Tensor, Tensor]:
    """x_0 (N, C, L, L) float32 and labels (N,) of the images with these indices, as one batch."""
    device = device_of(model)
    shape = (model.config.in_channels, model.config.input_size, model.config.input_size)
    asked = labels(model.config.num_classes, protocol.seed, images).to(device)
    noise = initial_noise(shape, protocol.seed, images).to(device)

    def noise_of(step: int) -> Tensor:
        return step_noise(shape, protocol.seed, images, step).to(device)

    with torch.inference_mode():
        x0 = sample(
            denoiser(model, asked, protocol.cfg_scale, dtype=protocol.dtype),
            noise,
            respaced(protocol.steps),
            step_noise=noise_of if protocol.sampler == "ddpm" else None,
            correction=correction,
        )
    return x0.float().cpu(), asked.cpu()


def sample_shard(
    model: DiT,
    correction: Correction | None,
    protocol: Protocol,
    *,
    images: int,
    chunk: int,
    shard: int,
    chunks_per_shard: int,
    folder: Path,
    key: str,
    mode: Mode = SIMULATE,
    decoder: Decoder = PIXELS,
) -> Path:
    """Compute the chunks of one shard that are missing and write `shard-<n>.json`, the list of them.

    `key` identifies everything the images depend on; it is stored in each chunk. `decoder` makes images of x_0.
    Raises ConfigError for counts below one or a shard beyond the last.
    """
    part = Shard(images, chunk, shard, chunks_per_shard)

    def make(path: Path, batch: range, count: int) -> Arrays:
        x0, asked = sample_images(model, protocol, batch, correction=correction)
        if not torch.isfinite(x0[:count]).all():
            raise Diverged(f"{path}: sampled images hold NaN or infinity; the quantized model diverges at these bits")
        return {"images": decoder(x0[:count]).numpy(), "labels": asked[:count].numpy()}

    made = make_chunks(part, folder, key, ("images", "labels"), make)
    listing = {**part.listing(key), "chunks": made, **protocol.unusual()}
    return part.write(folder, mode, listing, device=device_of(model))


def run_key(
    checkpoint: Path, protocol: Protocol, chunk: int, mode: Mode = SIMULATE, *, device: torch.device = CPU
) -> str:
    """Identifies everything that the images of a run depend on.

    What rounds differently does: the CPU's backend, or `cuda`, but not which GPU or how many.
    """
    return sha256_json(
        {
            "checkpoint": checkpoint_sha256(checkpoint),
            "protocol": protocol.to_dict(),
            "chunk": chunk,
            "mode": mode.on(device),
            "code": code_digest("qdit.sampling.run"),
        }
    )


def sample_checkpoint(
    checkpoint: Path,
    out: Path,
    protocol: Protocol,
    *,
    images: int,
    chunk: int,
    shard: int,
    chunks_per_shard: int,
    record_failure: bool = False,
    mode: Mode = SIMULATE,
    vae: Path | None = None,
    device: str = "cpu",
) -> Path:
    """The step quantized checkpoint → sample chunks of one shard, in the folder `out`.

    `vae` decodes the latents of models that make them; the protocol's `decoder` is taken from it. `device` is `cpu` or
    `cuda:N`. Where quantizing failed and that was recorded, the list of chunks is empty and says so. With
    `record_failure` the same is done for a method's result (`qdit.core.failure.is_result`); all else is raised.
    """
    place, part = torch_device(device), Shard(images, chunk, shard, chunks_per_shard)
    protocol = replace(protocol, decoder=decoder_name(vae))
    key = run_key(checkpoint, protocol, chunk, mode, device=place)

    def write(failure: Failure) -> None:
        part.write(out, mode, {**part.listing(key), **protocol.unusual(), **failure.to_dict()}, device=place)

    if handed_on(checkpoint, write):
        return part.path(out)
    loaded = load_checkpoint(checkpoint)
    if loaded.correction is not None:
        loaded.correction.check(protocol.steps)
    decoder = load_decoder(vae, loaded.model.config, dtype=protocol.dtype, device=place)
    require_room(out, part.size * decoder.image_bytes(loaded.model.config), "the images of a shard")
    with recording("sample", write, enabled=record_failure):
        sample_shard(
            mode.prepare(round_linears(loaded.model.to(place), protocol.dtype)),
            loaded.correction,
            protocol,
            images=images,
            chunk=chunk,
            shard=shard,
            chunks_per_shard=chunks_per_shard,
            folder=out,
            key=key,
            mode=mode,
            decoder=decoder,
        )
    return part.path(out)
