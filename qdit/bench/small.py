"""Time the linears of the mini model: the integer mode compared with float32 at 512 rows, by group size."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench import peers
from qdit.bench.goals import Goal, Judged
from qdit.bench.latency import block_shapes
from qdit.bench.layers import operands, random_packed
from qdit.bench.timing import Ratio, Timing, interleaved
from qdit.kernels.dispatch import grouped_linear

WIDTH, ROWS = 144, 512
GROUPS = (36, 24, 16, 12, 8, 4)
"""Group sizes of the mini profile: the paper's 288, 192, 128, 96, 64 and 32."""


def ratios(repeats: int, *, width: int = WIDTH, rows: int = ROWS, groups: Iterable[int] = GROUPS) -> dict[str, Any]:
    """Group size → speed of W4A8 divided by that of float32, over the linears of a block.

    The faster float32 of torch and oneDNN counts.
    """
    pairs: dict[int, list[tuple[Timing, Timing]]] = {size: [] for size in groups}
    with torch.inference_mode():
        for inputs, outputs in block_shapes(width):
            o = operands(rows, inputs, outputs)
            calls = {name: peer.call for name, peer in peers.torch_peers(o).items() if name.endswith("fp32")}
            floats = tuple(calls)
            for size in pairs:
                calls[str(size)] = partial(grouped_linear, o.x, random_packed(inputs, outputs, size, 4), o.bias)
            timings = interleaved(calls, repeats)
            rival = min((timings[name] for name in floats), key=lambda timing: timing.minimum)
            for size, measured in pairs.items():
                measured.append((rival, timings[str(size)]))
    return {str(size): Ratio.of(measured).to_dict() for size, measured in pairs.items()}


def judge(by_size: Mapping[str, Any], where: str) -> Iterable[Judged]:
    """Compare each group size with its goal: not slower than float32. `where` names the processor's instructions."""
    for size, measured in by_size.items():
        goal = Goal(f"mini's linears, W4A8 g{size} vs fp32, {where}", 1.0)
        yield Judged.measured(goal, measured["minima"], measured["medians"])


def text(by_size: Mapping[str, Any], *, style: str) -> str:
    """Format the ratios as a table."""
    rows = [[f"g{size}", f"{r['minima']:.2f}", f"{r['medians']:.2f}"] for size, r in by_size.items()]
    return tabulate(rows, ["W4A8", "times float32", "(medians)"], tablefmt=style, disable_numparse=True)
