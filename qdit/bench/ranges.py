"""`qdit bench ranges`: compare the cost of dynamic and static ranges, for several batch sizes and numbers of tokens."""

from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench.layers import operands, random_packed
from qdit.bench.record import heading, load, record, single_thread
from qdit.bench.timing import interleaved
from qdit.kernels.dispatch import grouped_linear

GROUP_SIZE = 128
SHAPES = ((1152, 4608), (4608, 1152))
PLACES = ((1, 64), (1, 256), (4, 64), (4, 256), (1, 1024), (8, 256))
"""(batch, tokens) of an image."""

STATIC, PER_TENSOR_TOKEN, PER_GROUP = "static, tensor", "dynamic, token", "dynamic, token and group"
BYTES_OF_A_RANGE = 8
"""A float32 scale and a 32-bit zero point, as the kernels keep them."""


def measure(
    command: str,
    *,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    places: tuple[tuple[int, int], ...] = PLACES,
    group_size: int = GROUP_SIZE,
    repeats: int = 9,
) -> dict[str, Any]:
    """Measure W4A8 linears with three kinds of ranges: their time, and the memory of the input's codes and ranges.

    The ranges are one static range, a dynamic range for each token, or a dynamic range for each token and group.
    """
    single_thread()
    before = load()
    measured = []
    static = torch.tensor([0.03]), torch.tensor([128.0])
    with torch.inference_mode():
        for inputs, outputs in shapes:
            packed = random_packed(inputs, outputs, group_size, 4)
            for batch, tokens in places:
                o = operands(batch * tokens, inputs, outputs)
                calls = {
                    STATIC: partial(grouped_linear, o.x, packed, o.bias, static=static),
                    PER_TENSOR_TOKEN: partial(grouped_linear, o.x, packed, o.bias, input_group=inputs),
                    PER_GROUP: partial(grouped_linear, o.x, packed, o.bias),
                }
                counts = {STATIC: 1, PER_TENSOR_TOKEN: len(o.x), PER_GROUP: len(o.x) * (inputs // group_size)}
                measured += [
                    {
                        "inputs": inputs,
                        "outputs": outputs,
                        "batch": batch,
                        "tokens": tokens,
                        "ranges": kind,
                        "seconds": timing.to_dict(),
                        "code_bytes": o.x.numel(),
                        "range_bytes": counts[kind] * BYTES_OF_A_RANGE,
                    }
                    for kind, timing in interleaved(calls, repeats).items()
                ]
    return record("ranges", command, load_before=before, group_size=group_size, measured=measured, goals=[])


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: time and memory of each kind of ranges, divided by those of static ranges."""
    table = []
    measured = content["measured"]
    for entry in measured:
        shape = {key: entry[key] for key in ("inputs", "outputs", "batch", "tokens")}
        base = next(e for e in measured if e["ranges"] == STATIC and all(e[key] == shape[key] for key in shape))
        minimum, medians = (entry["seconds"][key] / base["seconds"][key] for key in ("minimum", "median"))
        where = f"{entry['inputs']}→{entry['outputs']}, {entry['batch']} × {entry['tokens']} tokens"
        memory = (entry["code_bytes"] + entry["range_bytes"]) / (base["code_bytes"] + base["range_bytes"])
        cells = [f"{1e3 * entry['seconds']['minimum']:.2f}", f"{minimum:.3f}", f"{medians:.3f}", f"{memory:.3f}"]
        table.append([where if entry["ranges"] == STATIC else "", entry["ranges"], *cells])
    header = ["layer", "ranges of the input", "ms", "÷ static", "(medians)", "memory ÷ static"]
    align = ("left", "left", *["right"] * 4)
    body = tabulate(table, header, tablefmt=style, colalign=align, disable_numparse=True)
    about = f"W4A8, weights in groups of {content['group_size']}; memory is that of the input's codes and ranges:"
    return "\n".join([*heading(content), "", about, "", body, ""])
