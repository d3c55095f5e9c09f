"""Measure how fast the network of a row samples, and how many bytes it holds in memory. Write speed.json.

Times differ from run to run. So they have their own file and are never written to metrics.json. The step measures the
CPU seconds of the network's forward passes, for all sampling steps of one chunk. It does not count the sampler, nor the
data exchange with the process of a tool. Networks of this suite are measured in simulated and in integer mode. The
network of a tool is measured in the tool's process.

If the full-precision checkpoint is given, its trajectories and those of the row are timed in turns, so that both are
measured in one run on one machine. `over_full_precision` is the median of the ratios of successive times: above 1 the
row is faster.
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
from qdit.core.errors import ConfigError, Unsupported
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

FORMAT = 2
REPEATS = 3
"""Trajectories that are timed; one before them is not."""
OVER = "over_full_precision"
"""Key of the ratio: images per second of a row over those of full precision."""


@dataclass(frozen=True)
class SpeedJob:
    """What is measured: a checkpoint or the folder of a tool, a protocol, and a batch. A tool needs `python`.

    The speeds are divided by that of the checkpoint `full_precision`. Without it, only the speeds themselves are given.
    """

    sample: SampleJob
    out: Path
    full_precision: Path | None = None
    python: Path = field(default_factory=Path)
    threads: int = 1
    repeats: int = REPEATS


@dataclass
class Clock:
    """Adds up the CPU seconds of a network's forward passes."""

    seconds: float = 0.0
    start: float = 0.0

    def begin(self, *_: Any) -> None:
        """Note the time. It is a hook before each forward pass."""
        self.start = time.process_time()

    def stop(self, *_: Any) -> None:
        """Add the time since `begin`. It is a hook after each forward pass."""
        self.seconds += time.process_time() - self.start


@dataclass
class Racer:
    """A network whose trajectories are timed. `spent()` gives the CPU seconds of all its forward passes so far."""

    model: Any
    spent: Callable[[], float]
    correction: Any = None

    def seconds(self, job: SpeedJob) -> float:
        """Sample the batch once, and return the CPU seconds of the network's forward passes."""
        batch, protocol = range(job.sample.chunk), job.sample.protocol
        conditions = family_for(protocol).conditions(self.model.config, protocol, job.sample.source).tensors(batch)
        before = self.spent()
        sample_batch(self.model, protocol, conditions, batch, correction=self.correction)
        return self.spent() - before


def measure_speed(job: SpeedJob) -> dict[str, Any]:
    """Measure a checkpoint and write speed.json. If its quantization failed, the file has no speeds but the reason."""
    checkpoint = job.sample.checkpoint
    failure = read_failure(checkpoint)
    torch.set_num_threads(job.threads)
    modes: dict[str, Any] = {}
    if failure is None:
        with full_precision(job) as base:
            if is_tools(checkpoint):
                modes = {TOOL: of_tool(job, base)}
            else:
                modes = {mode: of_checkpoint(job, mode, base) for mode in (SIMULATE, INTEGER)}
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


@contextmanager
def full_precision(job: SpeedJob) -> Iterator[Racer | None]:
    """Context manager: gives the full-precision network to compare with, or None if the job names none."""
    if job.full_precision is None:
        yield None
        return
    model, _, config = read_checkpoint(job.full_precision)
    if config["sites"]:
        raise ConfigError(f"--full-precision {job.full_precision}: is quantized; give the checkpoint of method fp")
    ready = prepare_inference(model)
    with timed(ready) as clock:
        yield Racer(ready, lambda: clock.seconds)


def of_checkpoint(job: SpeedJob, mode: str, base: Racer | None) -> dict[str, Any]:
    """Speed and bytes of a checkpoint of this suite in a mode, or the reason why it cannot compute in this mode."""
    model, correction, config = read_checkpoint(job.sample.checkpoint)
    try:
        if mode == INTEGER and not config["sites"]:
            raise Unsupported("nothing is quantized")
        ready = prepare_integer(model) if mode == INTEGER else prepare_inference(model)
        with timed(ready) as clock:
            speed = speeds(job, Racer(ready, lambda: clock.seconds, correction), base)
    except Unsupported as problem:
        return {"why": str(problem)}
    return speed | {"memory_mb": held_bytes(ready) / MEGABYTE}


def of_tool(job: SpeedJob, base: Racer | None) -> dict[str, Any]:
    """Speed and bytes of a tool's quantized network."""
    tool_job = ToolSampleJob(job.sample, job.python, job.threads)
    facts = tool_job.config[KEY]
    with network(tool_job) as remote:
        speed = speeds(job, Racer(remote, lambda: remote.seconds), base)
    bytes_by_name = {"memory_mb": facts["memory_bytes"], "float_mb": facts["float_bytes"]}
    return speed | {name: value / MEGABYTE for name, value in bytes_by_name.items()} | {"versions": facts["versions"]}


@contextmanager
def timed(model: nn.Module) -> Iterator[Clock]:
    """Context manager: a clock that adds up the CPU seconds of a network's forward passes."""
    clock = Clock()
    hooks = [model.register_forward_pre_hook(clock.begin), model.register_forward_hook(clock.stop)]
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


def speeds(job: SpeedJob, racer: Racer, base: Racer | None) -> dict[str, Any]:
    """Time the network's trajectories in turns with those of `base`. Return images per CPU second, and all times.

    Images per CPU second are the batch divided by the median time of a trajectory. With `base` the speed relative to it
    is added. The first trajectory of each is not counted.
    """
    pairs = [(racer.seconds(job), base.seconds(job) if base else 0.0) for _ in range(job.repeats + 1)][1:]
    seconds = [own for own, _ in pairs]
    facts = {"images_per_second": job.sample.chunk / statistics.median(seconds), "seconds": seconds}
    if base is None:
        return facts
    ratios = [other / own for own, other in pairs]
    return facts | {OVER: statistics.median(ratios), "full_precision_seconds": [other for _, other in pairs]}
