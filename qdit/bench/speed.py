"""The step checkpoint → speed.json: how fast the network of a row samples, and how many bytes it holds in memory.

Times differ from run to run. So they have their own file and are never written to metrics.json. The step measures the
CPU seconds of the network's forward passes, for all sampling steps of one chunk. It does not count the sampler, nor the
pipe to the process of a tool. Networks of this suite are measured in simulated and in integer mode. The network of a
tool is measured in the tool's process.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qdit.bench.memory import MEGABYTE, held_bytes
from qdit.core.digest import code_digest
from qdit.core.errors import Unsupported
from qdit.core.files import write_json
from qdit.core.provenance import machine, packages
from qdit.core.run import INTEGER, SIMULATE, TOOL
from qdit.quant.checkpoint import read_checkpoint
from qdit.quant.folder import read_failure
from qdit.quant.integer import prepare_integer
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_batch
from qdit.sampling.run import SampleJob, family_for
from qdit.sampling.tools.quantizing import KEY, is_tools
from qdit.sampling.tools.sampling import ToolSampleJob, network

FORMAT = 1
REPEATS = 3
"""Trajectories that are timed; one before them is not."""


@dataclass(frozen=True)
class SpeedJob:
    """A measurement: a checkpoint or the folder of a tool, a protocol, and a batch. A tool needs `python`."""

    sample: SampleJob
    out: Path
    python: Path = field(default_factory=Path)
    threads: int = 1
    repeats: int = REPEATS


@dataclass
class Clock:
    """CPU seconds of a network's forward passes."""

    seconds: float = 0.0
    start: float = 0.0

    def begin(self, *_: Any) -> None:
        """Hook before a forward pass."""
        self.start = time.process_time()

    def stop(self, *_: Any) -> None:
        """Hook after a forward pass."""
        self.seconds += time.process_time() - self.start


def measure_speed(job: SpeedJob) -> dict[str, Any]:
    """Measure and write speed.json. A checkpoint whose quantization failed has no speeds, and the file says why."""
    checkpoint = job.sample.checkpoint
    failure = read_failure(checkpoint)
    if failure is not None:
        modes: dict[str, Any] = {}
    elif is_tools(checkpoint):
        modes = {TOOL: of_tool(job)}
    else:
        modes = {mode: of_checkpoint(job, mode) for mode in (SIMULATE, INTEGER)}
    content = {
        "format": FORMAT,
        "machine": machine(),
        "threads": job.threads,
        "batch": job.sample.chunk,
        "steps": job.sample.protocol.steps,
        "packages": packages(),
        "code": code_digest("qdit.bench.speed"),
        "modes": modes,
    }
    write_json(job.out, content | ({} if failure is None else {"why": failure.text}))
    return content


def of_checkpoint(job: SpeedJob, mode: str) -> dict[str, Any]:
    """Speed and bytes of a checkpoint of ours in a mode, or the reason why it does not compute in it."""
    model, correction, config = read_checkpoint(job.sample.checkpoint)
    try:
        if mode == INTEGER and not config["sites"]:
            raise Unsupported("nothing is quantized")
        ready = prepare_integer(model) if mode == INTEGER else prepare_inference(model)
        with timed(ready) as clock:
            speed = images_per_second(job, ready, lambda: clock.seconds, correction)
    except Unsupported as problem:
        return {"why": str(problem)}
    return speed | {"memory_mb": held_bytes(ready) / MEGABYTE}


def of_tool(job: SpeedJob) -> dict[str, Any]:
    """Speed and bytes of a tool's transformer."""
    tool_job = ToolSampleJob(job.sample, job.python, job.threads)
    facts = tool_job.config[KEY]
    with network(tool_job) as remote:
        speed = images_per_second(job, remote, lambda: remote.seconds, None)
    bytes_by_name = {"memory_mb": facts["memory_bytes"], "float_mb": facts["float_bytes"]}
    return speed | {name: value / MEGABYTE for name, value in bytes_by_name.items()} | {"versions": facts["versions"]}


@contextmanager
def timed(model: nn.Module) -> Iterator[Clock]:
    """Context manager: measures the forward passes of a network."""
    clock = Clock()
    hooks = [model.register_forward_pre_hook(clock.begin), model.register_forward_hook(clock.stop)]
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


def images_per_second(job: SpeedJob, model: Any, spent: Callable[[], float], correction: Any) -> dict[str, Any]:
    """Images per CPU second: the chunk divided by the median time of its trajectories; and all times."""
    torch.set_num_threads(job.threads)
    batch = range(job.sample.chunk)
    family = family_for(job.sample.protocol)
    conditions = family.conditions(model.config, job.sample.protocol, job.sample.source).tensors(batch)
    seconds = []
    for _ in range(job.repeats + 1):
        before = spent()
        sample_batch(model, job.sample.protocol, conditions, batch, correction=correction)
        seconds.append(spent() - before)
    seconds = seconds[1:]
    return {"images_per_second": len(batch) / statistics.median(seconds), "seconds": seconds}
