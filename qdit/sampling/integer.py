"""Sampling in integer mode, and how far its latents are from the simulated ones of the same noise."""

from pathlib import Path
from typing import Any

from torch import Tensor

from qdit.core.digest import code_digest
from qdit.core.failure import Failure
from qdit.core.files import read_json, write_json
from qdit.models.dit import DiT
from qdit.quant.checkpoint import Checkpoint, load_checkpoint
from qdit.quant.integer import integer_backend, kernels_sha256, prepare_integer
from qdit.quant.sites import prepare_inference
from qdit.sampling import run
from qdit.sampling.chunks import Mode
from qdit.sampling.protocol import Protocol

INTEGER = Mode(
    "integer",
    prepare_integer,
    integer_backend,
    {"kernels": kernels_sha256(), "code": code_digest("qdit.sampling.integer")},
)


def sample_checkpoint(checkpoint: Path, out: Path, protocol: Protocol, **options: Any) -> Path:
    """As `qdit.sampling.run.sample_checkpoint`, in integers.

    The shard's list says in `difference` how far the latents of its first chunk are from simulated ones.
    """
    path = run.sample_checkpoint(checkpoint, out, protocol, mode=INTEGER, **options)
    listing = read_json(path)
    if Failure.within(listing) is None:
        first = options["shard"] * options["chunks_per_shard"] * options["chunk"]
        images = range(first, min(first + options["chunk"], options["images"]))
        write_json(path, listing | {"difference": difference(checkpoint, protocol, images)})
    return path


def difference(checkpoint: Path, protocol: Protocol, images: range) -> dict[str, float]:
    """Largest and mean absolute difference of the final latents (or pixels, without a VAE) of these images."""

    def sampled(loaded: Checkpoint, model: DiT) -> Tensor:
        return run.sample_images(model, protocol, images, correction=loaded.correction)[0]

    one, other = load_checkpoint(checkpoint), load_checkpoint(checkpoint)
    apart = (sampled(one, prepare_integer(one.model)) - sampled(other, prepare_inference(other.model))).abs()
    return {"images": len(images), "largest": float(apart.max()), "mean": float(apart.mean())}
