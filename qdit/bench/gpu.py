"""`qdit bench gpu`: the grouped linear on a GPU beside cuBLAS in bfloat16.

It measures wall time with synchronization.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate

from qdit.bench.goals import Goal, Judged
from qdit.bench.layers import DIT_XL_LINEARS, operands, random_packed
from qdit.bench.record import ending, heading, judged_of, load, record, verdicts
from qdit.bench.timing import Ratio, Timing, interleaved
from qdit.core.errors import ConfigError
from qdit.kernels.dispatch import grouped_linear
from qdit.kernels.packing import PackedWeight

GOALS = {32: (0.30, 0.40), 64: (0.50, 0.70), 128: (0.80, 1.05), 192: (0.95, 1.25), 288: (0.95, 1.25)}
COMMAND = "qdit bench gpu"
BF16 = "torch bf16"


def measure(
    command: str,
    *,
    device: str = "cuda",
    rows: int = 8192,
    linears: tuple[tuple[int, int], ...] = DIT_XL_LINEARS,
    groups: tuple[int, ...] = tuple(GOALS),
    repeats: int = 15,
) -> dict[str, Any]:
    """Measure W4A8 in every group size beside bfloat16, taking turns; ConfigError if the machine has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("qdit bench gpu: no CUDA device is there; measure the CPU with `qdit bench kernels`")
    before, measured = load(), {}
    with torch.inference_mode():
        for inputs, outputs in linears:
            o = operands(rows, inputs, outputs)
            x, weight, bias = (t.to(device) for t in (o.x, o.weight, o.bias))
            half = [t.bfloat16() for t in (x, weight, bias)]
            calls = {BF16: partial(_finished, device, partial(F.linear, *half))}
            for size in groups:
                packed = on_device(random_packed(inputs, outputs, size, 4), device)
                calls[str(size)] = partial(_finished, device, partial(grouped_linear, x, packed, bias))
            measured[inputs, outputs] = interleaved(calls, repeats, clock=time.perf_counter)
    return record(
        "gpu",
        command,
        load_before=before,
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        rows=rows,
        measured=[
            {"inputs": i, "outputs": o, "candidate": name, "seconds": timing.to_dict()}
            for (i, o), timings in measured.items()
            for name, timing in timings.items()
        ],
        goals=[judged.to_dict() for judged in _judge(measured, groups, "H200" in _name(device))],
    )


def on_device(weight: PackedWeight, device: str) -> PackedWeight:
    """A copy of the packed weight with its tensors on a device."""
    pairs = None if weight.zero_pairs is None else weight.zero_pairs.to(device)
    codes, scale, sums, zeros = (t.to(device) for t in (weight.codes, weight.scale, weight.sums, weight.zeros))
    return replace(weight, codes=codes, scale=scale, sums=sums, zeros=zeros, zero_pairs=pairs)


def _finished(device: str, call: Any) -> None:
    call()
    if device == "cuda":
        torch.cuda.synchronize()


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def goal(group_size: int) -> Goal:
    """The goal of one group size."""
    name = f"H200, Triton int8 g{group_size} vs cuBLAS bf16, ≥ 8192 rows"
    return Goal(name, *GOALS[group_size])


def _judge(
    measured: dict[tuple[int, int], dict[str, Timing]], groups: tuple[int, ...], applies: bool
) -> Iterable[Judged]:
    for size in (size for size in groups if size in GOALS):
        speed = Ratio.of([(timings[BF16], timings[str(size)]) for timings in measured.values()])
        if applies:
            yield Judged.measured(goal(size), speed.minima, speed.medians)
        else:
            yield Judged.without(goal(size), "not applicable", f"measured {speed.minima:.2f} on another device")


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Text of a record: milliseconds, then goals with verdicts, then missed goals."""
    rows = [
        [f"{e['inputs']}→{e['outputs']}", e["candidate"], f"{1e3 * e['seconds']['minimum']:.3f}"]
        for e in content["measured"]
    ]
    body = tabulate(rows, ["layer", "bf16 or group size", "ms"], tablefmt=style, disable_numparse=True)
    judged = judged_of(content)
    lines = [*heading(content), f"{content['device']}, {content['rows']} rows, wall time", "", body, ""]
    return "\n".join([*lines, verdicts(judged, style=style), *ending(judged), ""])
