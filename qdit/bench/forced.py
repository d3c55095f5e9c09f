"""Compare the speed of our linear with float32 in a process that may use AVX2 at most. `qdit bench kernels` starts it.

`python -m qdit.bench.forced JSON` prints the ratios as JSON. Environment variables of the process restrict every
library to this instruction set.
"""

import json
import sys
from functools import partial
from typing import Any

import torch

from qdit.bench import small
from qdit.bench.layers import operands, random_packed
from qdit.bench.peers import torch_peers
from qdit.bench.record import single_thread
from qdit.bench.timing import Ratio, Timing, interleaved
from qdit.kernels import library
from qdit.kernels.dispatch import grouped_linear

BITS = (4, 6)


def ratios(question: dict[str, Any]) -> dict[str, Any]:
    """Speed of our linear divided by that of float32, for each bit width.

    The faster float32 of torch and oneDNN counts.
    """
    single_thread()
    pairs: dict[int, list[tuple[Timing, Timing]]] = {bits: [] for bits in BITS}
    with torch.inference_mode():
        for inputs, outputs in question["linears"]:
            o = operands(question["rows"], inputs, outputs)
            calls = {name: peer.call for name, peer in torch_peers(o).items() if name.endswith("fp32")}
            for bits in BITS:
                packed = random_packed(inputs, outputs, question["group_size"], bits)
                calls[str(bits)] = partial(grouped_linear, o.x, packed, o.bias)
            timings = interleaved(calls, question["repeats"])
            rival = min((t for name, t in timings.items() if name.endswith("fp32")), key=lambda t: t.minimum)
            for bits in BITS:
                pairs[bits].append((rival, timings[str(bits)]))
    by_bits = {b: Ratio.of(pairs[b]).to_dict() for b in BITS}
    return {"backend": library.backend_name(), "ratios": by_bits, "mini": small.ratios(2 * question["repeats"])}


if __name__ == "__main__":
    json.dump(ratios(json.loads(sys.argv[1])), sys.stdout)
