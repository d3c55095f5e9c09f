"""The step that makes chunks of images from a tool's folder. Noise, labels and chunks are those of every other row."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qdit.core.disk import require_room
from qdit.core.failure import Failure, recording
from qdit.core.run import TOOL
from qdit.models.config import DiTConfig
from qdit.sampling.batch import Batches
from qdit.sampling.chunks import Mode, handed_on
from qdit.sampling.families import family_named
from qdit.sampling.precision import CPU
from qdit.sampling.run import SampleJob, family_for, origin_of, sample_shard, write_failed
from qdit.sampling.tools.process import RemoteDiT, quantized_facts, started
from qdit.sampling.tools.quantizing import KEY, ToolJob, code_of, process_job, read_tool_folder


@dataclass(frozen=True)
class ToolSampleJob:
    """Inputs of sampling with a tool: the job of sampling, and the Python of the tool's environment.

    The folder of the tool names the tool and the bits.
    """

    sample: SampleJob
    python: Path
    threads: int = 1

    @property
    def config(self) -> dict[str, Any]:
        """The config.json of the tool's folder."""
        return read_tool_folder(self.sample.checkpoint)

    @property
    def tool(self) -> ToolJob:
        """The job with which the tool quantizes the transformer again."""
        record = self.config["record"]
        bits = f"w{record['weight_bits']}a{record['activation_bits']}"
        return ToolJob(record["method"], self.python, bits, threads=self.threads)


def as_it_is(model: Any) -> Any:
    """Return the model unchanged: a network in a tool's process needs no preparation."""
    return model


def tool_mode(config: dict[str, Any], code: str) -> Mode:
    """The mode of a tool's samples. Its backend is the text of the versions of the tool's package and of torch."""
    versions = config[KEY]["versions"]
    order = dict.fromkeys((config[KEY]["package"], "torch", *versions))
    name = ", ".join(f"{package} {versions[package]}" for package in order)
    return Mode(TOOL, as_it_is, lambda: name, {"code": code})


@contextmanager
def network(job: ToolSampleJob) -> Iterator[Any]:
    """Context manager: starts the tool's process, quantizes there, and yields a `RemoteDiT` that computes in it.

    Raises Unsupported if the tool leaves layers unchanged.
    """
    config, tool = DiTConfig(**job.config["model"]["config"]), job.tool
    content = process_job(job.sample.checkpoint, tool, depth=config.depth)
    with started(tool.known, job.python, content, threads=job.threads) as pipe:
        quantized_facts(pipe, tool.known, tool.bits)
        yield RemoteDiT(config, pipe)


def sample_tool(job: ToolSampleJob) -> Path:
    """Sample one shard of a tool's quantized transformer, and return the path of the list of its chunks.

    Recorded failures, errors and existing chunks are treated as `qdit.sampling.run.sample_checkpoint` does it.
    """
    if handed_on(job.sample.checkpoint, partial(write_failed, replace(job.sample, mode=Mode(TOOL, as_it_is, str)))):
        return job.sample.shard_of(family_for(job.sample.protocol)).path(job.sample.out)
    mode = tool_mode(job.config, code_of(job.tool.known))
    sampled = replace(job.sample, mode=mode)
    origin = origin_of(sampled)
    family = family_named(origin.family)
    shard, protocol = sampled.shard_of(family), origin.sampled_by(sampled.checkpoint)
    config = DiTConfig(**job.config["model"]["config"])
    conditions = family.conditions(config, protocol, sampled.source)
    decoder = family.decoder(sampled.vae, config, protocol, device=CPU)
    require_room(sampled.out, shard.size * decoder.sample_bytes(origin.shape), "the images of a shard")

    def write(failure: Failure) -> None:
        shard.write(sampled.out, mode, {**shard.listing(origin.to_dict()), **failure.to_dict()})

    with recording("sample", write, enabled=sampled.record_failure), network(job) as remote:
        sample_shard(Batches(remote, protocol, conditions, decoder), shard, sampled.out, origin.to_dict(), mode)
    return shard.path(sampled.out)
