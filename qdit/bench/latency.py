"""`qdit bench latency`: time each layer of a block at each group size. A search can use these times as costs."""

from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench.layers import operands, random_packed
from qdit.bench.record import heading, load, record, single_thread
from qdit.bench.timing import interleaved
from qdit.core.errors import ConfigError
from qdit.core.grouping import check_group_size
from qdit.kernels.dispatch import grouped_linear


def block_shapes(width: int) -> tuple[tuple[int, int], ...]:
    """Shapes (inputs, outputs) of the four linears of a DiT block of this width."""
    return ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))


def measure(
    command: str,
    *,
    width: int = 1152,
    groups: tuple[int, ...] = (32, 64, 96, 128, 192, 288),
    rows: int = 256,
    weight_bits: int = 4,
    activation_bits: int = 8,
    repeats: int = 15,
) -> dict[str, Any]:
    """Time the linears of a block at every group size. `qdit.search.latency.read_latency` reads the record."""
    if not groups or rows < 1:
        raise ConfigError(f"group sizes {list(groups)} and {rows} rows: at least one of each is needed")
    for size in groups:
        check_group_size(size, width, f"a block of width {width}")
    single_thread()
    before = load()
    measured = []
    with torch.inference_mode():
        for inputs, outputs in block_shapes(width):
            o = operands(rows, inputs, outputs)
            packed = {size: random_packed(inputs, outputs, size, weight_bits) for size in groups}
            calls = {
                str(size): partial(grouped_linear, o.x, weight, o.bias, activation_bits=activation_bits)
                for size, weight in packed.items()
            }
            timings = interleaved(calls, repeats)
            measured += [
                {"inputs": inputs, "outputs": outputs, "group_size": size, "seconds": timings[str(size)].to_dict()}
                for size in groups
            ]
    return record(
        "latency",
        command,
        load_before=before,
        rows=rows,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        measured=measured,
        goals=[],
    )


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: microseconds of each layer at each group size."""
    measured = content["measured"]
    sizes = list(dict.fromkeys(entry["group_size"] for entry in measured))
    rows: dict[tuple[int, int], list[str]] = {}
    for entry in measured:
        cells = rows.setdefault((entry["inputs"], entry["outputs"]), [])
        cells.append(f"{1e6 * entry['seconds']['minimum']:.0f}")
    table = [[f"{inputs}→{outputs}", *cells] for (inputs, outputs), cells in rows.items()]
    what = f"µs at {content['rows']} rows, W{content['weight_bits']}A{content['activation_bits']}, by group size:"
    body = tabulate(table, ["layer", *map(str, sizes)], tablefmt=style, disable_numparse=True)
    return "\n".join([*heading(content), "", what, "", body, ""])
