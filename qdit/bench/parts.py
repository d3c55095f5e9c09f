"""Time what an input transform and a low-rank branch add to the grouped linear: in its kernel, and by torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from qdit.bench.layers import Operands, operands, random_packed
from qdit.bench.timing import Ratio, Timing, interleaved
from qdit.kernels.dispatch import grouped_linear
from qdit.kernels.packing import PackedWeight
from qdit.kernels.parts import Parts, channel_step, hadamard_step, make_branch
from qdit.quant.transforms import Hadamard

RANK = 32
"""SVDQuant's."""

PLAIN = "plain"
NAMES = {
    "divide": "divide, in the kernel",
    "divide torch": "divide, by torch",
    "hadamard": "Hadamard, in the kernel",
    "hadamard torch": "Hadamard, by torch",
    "branch": f"branch of rank {RANK}, in the kernel",
    "branch torch": f"branch of rank {RANK}, by torch",
    "both": "Hadamard and branch, in the kernel",
}
"""Candidate → words; Hadamard blocks are the largest power of two that divides the width."""


def measure(linears: Sequence[tuple[int, int]], groups: Sequence[int], rows: int, repeats: int) -> list[dict[str, Any]]:
    """Time each candidate at W4A8, for each layer and group size. Return the entries of the record."""
    entries = []
    for inputs, outputs in linears:
        o = operands(rows, inputs, outputs)
        for group_size in groups:
            timings = interleaved(candidates(o, random_packed(inputs, outputs, group_size, 4)), repeats)
            shape = {"inputs": inputs, "outputs": outputs, "rows": rows, "group_size": group_size}
            entries += [{**shape, "candidate": name, "seconds": t.to_dict()} for name, t in timings.items()]
    return entries


def candidates(o: Operands, packed: PackedWeight) -> dict[str, Callable[[], Tensor]]:
    """Products that are timed alternately at one layer, by name.

    The first is the linear without transform and branch.
    """
    width, outputs = o.x.shape[1], len(o.bias)
    block = width & -width
    factor = torch.rand(width) + 0.5
    up, down = torch.randn(outputs, RANK).half(), torch.randn(RANK, width).half()
    rotate, wide, narrow = Hadamard(width, size=block), up.float(), down.float()
    divide, turn, branch = channel_step("divide", factor), hadamard_step(block), make_branch(up, down)

    def product(x: Tensor, parts: Parts = Parts()) -> Tensor:  # noqa: B008 - it cannot be changed
        return grouped_linear(x, packed, o.bias, parts=parts)

    return {
        PLAIN: partial(product, o.x),
        "divide": partial(product, o.x, Parts((divide,))),
        "divide torch": lambda: product(o.x / factor),
        "hadamard": partial(product, o.x, Parts((turn,))),
        "hadamard torch": lambda: product(rotate(o.x)),
        "branch": partial(product, o.x, Parts((), branch)),
        "branch torch": lambda: product(o.x) + F.linear(F.linear(o.x, narrow), wide),
        "both": partial(product, o.x, Parts((turn,), branch)),
    }


def text(entries: Sequence[Mapping[str, Any]], *, style: str) -> str:
    """Format the entries as text: time of each candidate ÷ time of the plain linear, geometric mean over the layers."""
    groups = list(dict.fromkeys(entry["group_size"] for entry in entries))
    table = []
    for name, words in NAMES.items():
        ratios = [_ratio([e for e in entries if e["group_size"] == size], name) for size in groups]
        table.append([words, *(f"{1 / ratio.minima:.2f} ({1 / ratio.medians:.2f})" for ratio in ratios)])
    return tabulate(table, ["", *(f"g{size}" for size in groups)], tablefmt=style, disable_numparse=True)


def _ratio(entries: Sequence[Mapping[str, Any]], name: str) -> Ratio:
    def timings(candidate: str) -> list[Timing]:
        return [Timing(**entry["seconds"]) for entry in entries if entry["candidate"] == candidate]

    return Ratio.of(list(zip(timings(PLAIN), timings(name), strict=True)))
