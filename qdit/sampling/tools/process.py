"""The process of a tool, used as a network by our sampler.

Each batch goes through a pipe, and the answer comes back.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError, DataError, QditError, Unsupported
from qdit.core.failure import method_code
from qdit.core.repository import PACKAGE
from qdit.models.config import DiTConfig
from qdit.models.roles import StepContext
from qdit.sampling.tools.registry import KnownTool

DRIVER = "qdit.sampling.tools.driver"
INSTALL = "`qdit tools install FOLDER` makes the environment, --python FOLDER/bin/python names it"


class ToolFailed(QditError):
    """Error: the tool's own code failed in its process."""


class Pipe:
    """Our end of the pipe to a tool's process: requests go out, answers come in."""

    def __init__(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self.name = process, name
        self.requests, self.answers = process.stdin, process.stdout

    def ask(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """Send arrays; return the answer and the CPU seconds of the forward pass.

        ToolFailed if the process has ended.
        """
        try:
            self.requests.write(json.dumps({"shapes": [array.shape for array in arrays]}).encode() + b"\n")
            for array in arrays:
                self.requests.write(np.ascontiguousarray(array).tobytes())
            self.requests.flush()
        except BrokenPipeError:
            self.ended()
        facts, payload = self.receive()
        return np.frombuffer(payload, np.float32).reshape(facts["shape"]).copy(), float(facts["seconds"])

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Read one message. ToolFailed or ConfigError if the message reports a failure, or if the process has ended."""
        line = self.answers.readline()
        if not line:
            self.ended()
        facts = json.loads(line)
        if "error" in facts:
            if facts["installation"]:
                raise ConfigError(f"{self.name}: {facts['error']}; {INSTALL}")
            fail(f"{self.name}: {facts['error']}")
        return facts, self.answers.read(facts["bytes"])

    def ended(self) -> NoReturn:
        """Raise the error for a process that has ended: DataError if a signal ended it (for example for memory).

        If it ended by itself, the error is ToolFailed.
        """
        code = self.process.wait()
        if code < 0:
            raise DataError(f"{self.name}: its process was ended by signal {-code}, perhaps for memory; run it again")
        fail(f"{self.name}: its process ended with code {code}; its last lines are in the log")


def fail(reason: str) -> NoReturn:
    """Raise ToolFailed, marked as a failure of the method, so that the row of the tool shows it."""
    with method_code():
        raise ToolFailed(reason)
    raise AssertionError("method_code lets every exception out")


class RemoteDiT(nn.Module):
    """A transformer in a tool's process, called like our DiT. `seconds` sums the CPU seconds of its forward passes."""

    anchor: Tensor

    def __init__(self, config: DiTConfig, pipe: Pipe) -> None:
        super().__init__()
        self.config, self.pipe, self.seconds = config, pipe, 0.0
        self.step_context = StepContext()
        self.register_buffer("anchor", torch.zeros(()))

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Predicted noise and variance (N, 2C, L, L) for images (N, C, L, L) at timesteps (N,) with labels (N,)."""
        batch = (x.float().numpy(), timestep.long().numpy(), label.long().numpy())
        answer, seconds = self.pipe.ask(batch)
        self.seconds += seconds
        return torch.from_numpy(answer)


def environment(threads: int, sources: str) -> dict[str, str]:
    """Environment variables for a tool's process.

    It can import `qdit` from the folder `sources` and downloads nothing.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return outside | offline | limits | {"PYTHONPATH": sources, "PYTHONNOUSERSITE": "1"}


@contextmanager
def started(known: KnownTool, python: Path, job: Mapping[str, Any], *, threads: int = 1) -> Iterator[Pipe]:
    """Context manager: starts a tool's process, gives it its job, and ends it afterwards."""
    if not python.is_file():
        raise DataError(f"{python}: no Python of an environment with {known.tool.printed} is there; {INSTALL}")
    content = {"tool": str(known.path), "class": type(known.tool).__name__, "threads": threads, **job}
    with tempfile.TemporaryDirectory(prefix="qdit-tool-") as sources:
        Path(sources, "qdit").symlink_to(PACKAGE)  # only our package: beside it may lie those of our environment
        process = subprocess.Popen(
            [str(python), "-m", DRIVER, json.dumps(content)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr if has_descriptor(sys.stderr) else None,
            env=environment(threads, sources),
        )
        try:
            yield Pipe(process, known.tool.printed)
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Close the pipe, wait until the process ends because of this, and kill it after half a minute."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def has_descriptor(stream: Any) -> bool:
    """Whether a stream is a real file of the operating system, so that a child process can write to it."""
    try:
        return bool(stream.fileno() >= 0)
    except (OSError, ValueError, AttributeError):
        return False


def quantized_facts(pipe: Pipe, known: KnownTool, bits: str) -> dict[str, Any]:
    """Read the facts about the quantized transformer from the tool's process.

    Raises Unsupported if the tool left layers unquantized, or quantized other layers.
    """
    facts, _ = pipe.receive()
    if untouched := facts["untouched"]:
        raise Unsupported(
            f"{known.tool.printed} left {len(untouched)} of {facts['layers']} layers unquantized at {bits.upper()},"
            f" first {untouched[0]}"
        )
    if others := facts["others"]:
        raise Unsupported(
            f"{known.tool.printed} quantized {len(others)} layers beyond scope common at {bits.upper()}, first"
            f" {others[0]}"
        )
    return facts
