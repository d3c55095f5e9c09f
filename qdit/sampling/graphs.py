"""The denoising step as one CUDA graph: recorded at the first step of a chunk, replayed at all others.

A graph replays the same kernels on the same memory, so its results have the bits of the step itself. The first replay
is compared with the step. If they differ, or if the step cannot be recorded (it waits for the GPU, or reads memory of
the host), all steps are computed as usual, and one warning gives the reason.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from qdit.kernels import flags

LOG = logging.getLogger(__name__)

Step = Callable[[Tensor, Tensor], Tensor]
"""(x (N, …), timestep (N,)) → output of the network after guidance."""


class GraphedStep:
    """A denoising step that is recorded at its first call. Inputs of another shape are computed as usual."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.inputs: tuple[Tensor, ...] | None = None
        self.replay: Callable[[], None] | None = None
        self.output = torch.empty(0)

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Output of the step, in memory of its own."""
        if self.inputs is None:
            return self.first(x, timestep)
        arguments = (x, timestep)
        if self.replay is None or any(a.shape != b.shape for a, b in zip(self.inputs, arguments, strict=True)):
            return self.step(x, timestep)
        for memory, values in zip(self.inputs, arguments, strict=True):
            memory.copy_(values)
        self.replay()
        flags.check()
        return self.output.clone()

    def first(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Compute the step, record it, and compare the replay."""
        expected = self.step(x, timestep)
        self.inputs = (x.clone(), timestep.clone())
        try:
            replay, self.output = recorded(lambda: self.step(*self.inputs))  # type: ignore[misc]
            replay()
        except RuntimeError as problem:
            LOG.warning("no CUDA graph: the denoising step cannot be recorded (%s)", str(problem).split("\n")[0][:200])
            return expected
        if torch.equal(self.output, expected):
            self.replay = replay
        else:
            LOG.warning("no CUDA graph: the replayed denoising step has other bits than the step itself")
        return expected


def recorded(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """(function that replays the call as a CUDA graph, the memory of its output)."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # libraries reserve their memory for this stream
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, stream=stream):
        output = call()
    return graph.replay, output
