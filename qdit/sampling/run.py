"""Sample chunks: fixed batches of images, one file each, the same bits whoever computes them.

A chunk is always one batch of its fixed size (the last one padded with images that are then dropped). A job
computes a shard, a range of chunks; chunks that are already there for the same key are kept, so a killed job
goes on where it was. Which GPU computes is no part of the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qdit.artifacts import load_arrays, save_arrays, sha256_file, sha256_json, write_json
from qdit.digest import code_digest
from qdit.disk import require_room
from qdit.errors import ConfigError, DataError, QditError, Unsupported
from qdit.failure import Failure, recording, say
from qdit.kernels.simulated import backend
from qdit.models.dit import DiT
from qdit.quant.checkpoint import load_checkpoint
from qdit.quant.folder import checkpoint_sha256, read_failure
from qdit.quant.sites import prepare_inference
from qdit.sampling.decoding import PIXELS, Decoder, load_decoder
from qdit.sampling.guidance import denoiser
from qdit.sampling.noise import initial_noise, labels, step_noise
from qdit.sampling.precision import CPU, backend_on, device_of, kind_of_backend, round_linears, torch_device
from qdit.sampling.protocol import Protocol, decoder_name
from qdit.sampling.samplers import Correction, sample
from qdit.sampling.schedule import respaced


@dataclass(frozen=True)
class Mode:
    """How a quantized model computes: its name, what makes a loaded model ready, which kernel backend then runs.

    `identity` is what the images of this mode depend on besides that.
    """

    name: str
    prepare: Callable[[DiT], DiT]
    backend: Callable[[], str]
    identity: Mapping[str, str] = field(default_factory=dict)


SIMULATE = Mode("simulate", prepare_inference, backend)
"""Quantize-dequantize in floating point; the other mode is in `qdit.sampling.integer`."""


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


def chunk_path(folder: Path, chunk: int) -> Path:
    """File of one chunk."""
    return folder / f"{chunk:05d}.npz"


def is_current(path: Path, key: str, count: int) -> bool:
    """Whether a chunk file is whole, was made for this key and holds `count` images."""
    if not path.exists():
        return False
    try:
        arrays = load_arrays(path)
        return str(arrays["key"]) == key and len(arrays["images"]) == len(arrays["labels"]) == count
    except (DataError, KeyError):
        return False


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
    if images < 1 or chunk < 1 or chunks_per_shard < 1:
        raise ConfigError(
            f"images {images}, chunk {chunk}, chunks_per_shard {chunks_per_shard}: each must be at least 1"
        )
    chunks = range(shard * chunks_per_shard, min((shard + 1) * chunks_per_shard, -(-images // chunk)))
    if shard < 0 or not chunks:
        last = -(-images // (chunk * chunks_per_shard)) - 1
        raise ConfigError(f"shard {shard}: {images} images in chunks of {chunk} have shards 0 to {last}")
    for number in tqdm(chunks, desc=f"sampling shard {shard}", unit="chunk", mininterval=1):
        path = chunk_path(folder, number)
        first = number * chunk
        count = min(chunk, images - first)
        if not is_current(path, key, count):
            x0, asked = sample_images(model, protocol, range(first, first + chunk), correction=correction)
            save_chunk(path, x0[:count], asked[:count], first, key, decoder)
    listed = [{"file": p.name, "sha256": sha256_file(p)} for p in (chunk_path(folder, n) for n in chunks)]
    listing = {"key": key, "images": images, "chunk": chunk, "chunks": listed}
    return write_shard(folder, shard, mode, listing | decoded(protocol), device=device_of(model))


def decoded(protocol: Protocol) -> dict[str, str]:
    """What the list of a shard says besides of precision and decoder, where they are not the usual ones."""
    return {name: value for name, value in protocol.to_dict().items() if name in ("dtype", "decoder")}


def write_shard(folder: Path, shard: int, mode: Mode, listing: dict[str, Any], *, device: torch.device = CPU) -> Path:
    """Write the list of a shard's chunks."""
    path = folder / f"shard-{shard:03d}.json"
    write_json(path, {**listing, "mode": mode.name, "backend": backend_on(device, mode.backend)})
    return path


def save_chunk(path: Path, x0: Tensor, asked: Tensor, first: int, key: str, decoder: Decoder = PIXELS) -> None:
    """One chunk file; images that are not finite are an error, not a picture."""
    if not torch.isfinite(x0).all():
        raise DataError(f"{path}: sampled images hold NaN or infinity; the quantized model diverges at these bits")
    arrays = {
        "images": decoder(x0).numpy(),
        "labels": asked.numpy(),
        "first": np.int64(first),
        "key": np.array(key),
    }
    save_arrays(path, arrays)


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
            "mode": {"name": mode.name, "backend": kind_of_backend(device, mode.backend), **mode.identity},
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
    `record_failure` the same is done if the model cannot be run or its images are not finite; otherwise that is raised.
    """
    place = torch_device(device)
    protocol = replace(protocol, decoder=decoder_name(vae))
    key = run_key(checkpoint, protocol, chunk, mode, device=place)

    def write(failure: Failure) -> None:
        listing = {"key": key, "images": images, "chunk": chunk, "chunks": [], **decoded(protocol)}
        write_shard(out, shard, mode, listing | failure.to_dict(), device=place)

    if failure := read_failure(checkpoint):
        write(failure)
        say(failure.text)
        return out / f"shard-{shard:03d}.json"
    loaded = load_checkpoint(checkpoint)
    if loaded.correction is not None:
        loaded.correction.check(protocol.steps)
    decoder = load_decoder(vae, loaded.model.config, dtype=protocol.dtype, device=place)
    size = min(chunk * chunks_per_shard, images) * decoder.image_bytes(loaded.model.config)
    require_room(out, size, "the images of a shard")
    with recording("sample", write, recordable=lambda problem: record_failure and is_of_the_model(problem)):
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
    return out / f"shard-{shard:03d}.json"


def is_of_the_model(problem: Exception) -> bool:
    """Whether sampling failed at the model (it crashes, or diverges) and not at what was asked for."""
    return isinstance(problem, DataError | Unsupported) or not isinstance(problem, QditError)
