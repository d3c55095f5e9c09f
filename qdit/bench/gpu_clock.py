"""Measure time and memory of calls on a device.

A GPU times a series of calls by its own clock. The calls are launched without waiting for each other.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Scale:
    """The device of `qdit bench gpu`. `quick` takes tiny sizes, which only check that the benchmark works."""

    device: str = "cuda"
    quick: bool = False

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def card(self) -> str:
        """Name of the device, as its driver reports it."""
        return torch.cuda.get_device_name() if self.is_cuda else self.device

    def wait(self) -> None:
        """Wait until the device has finished all launched work."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give the memory that torch holds but does not use back to the device."""
        if self.is_cuda:
            torch.cuda.empty_cache()


def milliseconds(scale: Scale, call: Callable[[], Any], repeats: int = 20, warm: int = 3) -> float:
    """Milliseconds of one call: the mean over `repeats` calls, in the shortest of three such rounds.

    A GPU measures the time by its own events.
    """
    for _ in range(warm if scale.is_cuda else 1):
        call()
    scale.wait()
    rounds = []
    for _ in range(3):
        if scale.is_cuda:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(repeats):
                call()
            last.record()
            scale.wait()
            rounds.append(first.elapsed_time(last) / repeats)
        else:
            rounds.append(wall(scale, call))
    return min(rounds)


def wall(scale: Scale, call: Callable[[], Any]) -> float:
    """Milliseconds of one call by the wall clock. This includes Python, launches and the wait for the device."""
    scale.wait()
    start = time.perf_counter()
    call()
    scale.wait()
    return 1e3 * (time.perf_counter() - start)


def peak(scale: Scale, call: Callable[[], Any]) -> tuple[Any, float]:
    """Result of a call, and the peak memory of the device in GiB during it. On a CPU the memory is given as 0."""
    if scale.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    result = call()
    scale.wait()
    return result, (torch.cuda.max_memory_allocated() / 2**30 if scale.is_cuda else 0.0)


@contextmanager
def fills() -> Iterator[None]:
    """Context manager: inside it torch fills new memory with NaN, its default with deterministic algorithms."""
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def attempt(call: Callable[[], Any]) -> Any:
    """Result of a call, or the text of its error, so that a failure does not stop the rest of a section."""
    try:
        return call()
    except Exception as problem:
        return f"{type(problem).__name__}: {str(problem)[:300]}"
