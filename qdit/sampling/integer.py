"""Sampling in integer mode. It also measures how much integer latents differ from simulated ones of the same noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.failure import Failure
from qdit.core.files import read_json, write_json
from qdit.models.network import Network
from qdit.quant.checkpoint import read_checkpoint
from qdit.quant.integer import integer_backend, integer_layers, kernels_sha256, prepare_integer
from qdit.quant.sites import prepare_inference
from qdit.sampling import run
from qdit.sampling.batch import sample_batch
from qdit.sampling.chunks import Mode
from qdit.sampling.families import family_of
from qdit.sampling.precision import round_linears

INTEGER = Mode(
    "integer",
    prepare_integer,
    integer_backend,
    {"kernels": kernels_sha256(), "code": code_digest("qdit.sampling.integer")},
)

PIPELINE_INTEGER = Mode("integer", integer_layers, integer_backend, INTEGER.identity)
"""The same for the transformer of a pipeline, whose other layers stay as they are (`qdit.sampling.pipeline_images`)."""


def sample_checkpoint(job: run.SampleJob) -> Path:
    """Sample a checkpoint in integer mode (see `qdit.sampling.run.sample_checkpoint`).

    In the shard's list, `difference` is the difference between integer and simulated latents in the first chunk.
    """
    path = run.sample_checkpoint(replace(job, mode=INTEGER))
    listing = read_json(path)
    if Failure.within(listing) is None:
        first = job.shard * job.chunks_per_shard * job.chunk
        samples = range(first, min(first + job.chunk, job.count))
        write_json(path, listing | {"difference": difference(job, samples)})
    return path


def difference(job: run.SampleJob, samples: range) -> dict[str, float]:
    """Largest and mean absolute difference between integer and simulated latents of these samples.

    Without a VAE the latents are pixels. Both modes compute on the device of the job, in the precision of its protocol.
    """
    device = torch_device(job.device)

    def sampled(prepare: Callable[[Network], Network]) -> Tensor:
        model, correction, _ = read_checkpoint(job.checkpoint)
        conditions = family_of(model.config).conditions(model.config, job.protocol, job.source).tensors(samples)
        ready = prepare(round_linears(model.to(device), job.protocol.dtype))
        return sample_batch(ready, job.protocol, conditions, samples, correction=correction)

    distances = (sampled(prepare_integer) - sampled(prepare_inference)).abs()
    return {"images": len(samples), "largest": float(distances.max()), "mean": float(distances.mean())}
