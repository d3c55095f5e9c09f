"""The step that makes chunks of samples from a quantized checkpoint.

Batches are fixed, so every process computes the same bits. Images and clips use the same code. Their differences are in
the family (`qdit.sampling.family`). `qdit.sampling.chunks` stores the chunks.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.disk import require_room
from qdit.core.failure import Failure, recording
from qdit.core.files import sha256_json
from qdit.models.network import config_class
from qdit.quant.checkpoint import read_checkpoint
from qdit.quant.folder import checkpoint_sha256, read_config
from qdit.sampling.batch import Batches, chunks_together
from qdit.sampling.chunks import SIMULATE, Mode, Shard, copy_equal_samples, handed_on, make_chunks
from qdit.sampling.families import family_named
from qdit.sampling.family import AnyFamily, Prompts, Source
from qdit.sampling.origin import MODEL_FACTS, Origin, facts_of
from qdit.sampling.precision import device_of, round_linears
from qdit.sampling.prompts import texts_identity
from qdit.sampling.protocol import Sampled


@dataclass(frozen=True)
class SampleJob:
    """A job that samples from a checkpoint into the folder `out`: one shard of a run of `samples` images or clips.

    Clips need `prompts`: (prompt, number) of each clip; then `samples` may be left out. A model of latents needs the
    `vae` that decodes them (it decides the protocol's `decoder`). For clips of latents it also needs the `embeddings`
    of the prompts. `device` is `cpu` or `cuda:N`. `same_as` is a folder of samples that are copied instead, if they
    have the same origin. With `graphed` the denoising step is one CUDA graph; no bit changes.
    """

    checkpoint: Path
    out: Path
    protocol: Sampled
    samples: int = 0
    chunk: int = 64
    shard: int = 0
    chunks_per_shard: int = 1_000_000
    prompts: Prompts | None = None
    embeddings: Path | None = None
    vae: Path | None = None
    mode: Mode = SIMULATE
    device: str = "cpu"
    record_failure: bool = False
    same_as: Path | None = None
    graphed: bool = False

    @property
    def source(self) -> Source:
        """Files from which the conditions and the decoder come."""
        return Source(self.checkpoint, self.prompts, self.embeddings, self.vae)

    @property
    def count(self) -> int:
        """Number of samples of the whole run."""
        return self.samples if self.prompts is None else len(self.prompts)

    def shard_of(self, family: AnyFamily) -> Shard:
        """The shard of this job; ConfigError for counts below one and for a shard beyond the last."""
        return Shard(self.count, self.chunk, self.shard, self.chunks_per_shard, family.unit)


def sampling_code(*modules: str) -> str:
    """Digest of the code that samples, and of further modules that are loaded by name."""
    return code_digest("qdit.sampling.run", *modules)


def origin_of(job: SampleJob) -> Origin:
    """The origin of the samples of a job's run: everything that they depend on. Its digest is the key of every chunk.

    It contains the backend (the program that computes), because backends round differently: that of the CPU, or `cuda`.
    It does not contain the GPU or the number of GPUs.
    """
    stored = read_config(job.checkpoint)
    family = family_named(stored["model"]["family"])
    config = config_class(family.name)(**stored["model"]["config"])
    protocol = replace(family.require(job.protocol), decoder=family.decoder_name(job.vae))
    prompts = None if job.prompts is None else [list(pair) for pair in job.prompts]
    return Origin(
        family=family.name,
        protocol=facts_of(protocol),
        shape=family.shape(config, protocol),
        chunk=job.chunk,
        checkpoint_sha256=checkpoint_sha256(job.checkpoint),
        model={fact: stored["record"].get(fact) for fact in MODEL_FACTS},
        mode=job.mode.on(torch.device(job.device)),
        code=sampling_code(*family.modules),
        prompts=None if prompts is None else {"count": len(prompts), "sha256": sha256_json(prompts)},
        text_sha256=texts_identity(job.embeddings),
    )


def sample_checkpoint(job: SampleJob) -> Path:
    """Sample one shard and write the list of its chunks. Return the path of the list.

    Existing chunks of the same origin are kept. If quantizing failed and this was recorded, the list has the failure
    and no chunks. With `record_failure` a failure of the method while sampling is recorded in the same way
    (`qdit.core.failure.is_result`); all other errors are raised. Raises ConfigError for counts below one, a shard
    beyond the last, and files of another model. Raises DataError for prompts without embeddings, and for a disk without
    room. All of these are raised before anything is sampled.
    """
    device = torch_device(job.device)
    if handed_on(job.checkpoint, partial(write_failed, job)):
        return job.shard_of(family_for(job.protocol)).path(job.out)
    origin = origin_of(job)
    family = family_named(origin.family)
    shard, protocol = job.shard_of(family), origin.sampled_by(job.checkpoint)
    if job.same_as is not None:
        copy_equal_samples(job.same_as, job.out, shard, origin.to_dict())
    model, correction, _ = read_checkpoint(job.checkpoint)
    conditions = family.conditions(model.config, protocol, job.source)
    if correction is not None:
        correction.check(protocol.steps)
    decoder = family.decoder(job.vae, model.config, protocol, device=device)
    require_room(job.out, shard.size * decoder.sample_bytes(origin.shape), f"the {family.unit} of a shard")

    def write(failure: Failure) -> None:
        shard.write(job.out, job.mode, {**shard.listing(origin.to_dict()), **failure.to_dict()}, device=device)

    with recording("sample", write, enabled=job.record_failure):
        ready = job.mode.prepare(round_linears(model.to(device), protocol.dtype))
        batches = Batches(ready, protocol, conditions, decoder, correction, job.graphed)
        sample_shard(batches, shard, job.out, origin.to_dict(), job.mode)
    return shard.path(job.out)


def sample_shard(
    batches: Batches, shard: Shard, folder: Path, origin: dict[str, object], mode: Mode = SIMULATE
) -> Path:
    """Compute the missing chunks of one shard and write `shard-<n>.json`, the list of all its chunks."""
    family = family_for(batches.protocol)
    together = chunks_together(batches.model, shard.chunk) if batches.protocol.dtype == "float32" else 1
    columns = (family.pixels, *family.named)
    chunks = make_chunks(shard, folder, origin, columns, batches.columns, together=together)
    listing = {**shard.listing(origin), "chunks": chunks}
    return shard.write(folder, mode, listing, device=device_of(batches.model))


def family_for(protocol: Sampled) -> AnyFamily:
    """The family to which a protocol belongs."""
    return family_named(protocol.family)


def write_failed(job: SampleJob, failure: Failure) -> None:
    """Write the list of a shard that has no chunks because quantizing failed. Its origin is the recorded failure."""
    shard = job.shard_of(family_for(job.protocol))
    facts = {"family": job.protocol.family, "protocol": facts_of(job.protocol)}
    origin = facts | {"checkpoint_sha256": checkpoint_sha256(job.checkpoint)}
    device = torch.device(job.device)
    shard.write(job.out, job.mode, {**shard.listing(origin), **failure.to_dict()}, device=device)
