"""`qdit bench memory`: bytes of the weights in every mode, and peak memory of a process that runs the model.

Each mode runs in its own process: `python -m qdit.bench.memory JSON` prints its result.
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from qdit.bench.modes import EAGER, FULL, INTEGER, SIMULATED, in_mode, random_model
from qdit.bench.record import heading, load, record, single_thread
from qdit.kernels.packing import PackedWeight
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT

MODEL = DiTConfig(depth=2)
"""Two blocks of DiT-XL/2."""

GROUP_SIZE = 128
SHOWN = (FULL, EAGER, SIMULATED, INTEGER)
MEGABYTE = 1e6


def measure(command: str, *, config: DiTConfig = MODEL, group_size: int = GROUP_SIZE) -> dict[str, Any]:
    """Run a model once in every mode, each in a process of its own. Return the record."""
    before = load()
    by_mode = {}
    for mode in SHOWN:
        question = {"mode": mode, "config": asdict(config), "group_size": group_size}
        call = [sys.executable, "-m", "qdit.bench.memory", json.dumps(question)]
        by_mode[mode] = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    return record(
        "memory",
        command,
        load_before=before,
        model=asdict(config),
        group_size=group_size,
        measured=by_mode,
        goals=[],
    )


def in_this_process(question: dict[str, Any]) -> dict[str, int]:
    """Measure one mode: bytes of the block linears' weights, and how much one forward pass raises the peak memory.

    Every mode is made from the full-precision model, so this model is part of the peak in every mode.
    """
    single_thread()
    start = peak_bytes()
    model = in_mode(random_model(DiTConfig(**question["config"])), question["mode"], group_size=question["group_size"])
    with torch.inference_mode():
        side, channels = model.config.input_size, model.config.in_channels
        model(torch.zeros(1, channels, side, side), torch.tensor([500]), torch.tensor([1]))
    return {"weight_bytes": weight_bytes(model), "peak_bytes": peak_bytes() - start}


def weight_bytes(model: DiT) -> int:
    """Bytes that the linears of the blocks hold: weights, packed copies, scales and zero points."""
    return held_bytes(*model.blocks)


def held_bytes(*models: nn.Module) -> int:
    """Bytes of all tensors that modules hold: weights, packed copies, scales, zero points.

    A shared tensor counts once.
    """
    tensors = {id(tensor): tensor for model in models for module in model.modules() for tensor in _tensors(module)}
    return sum(_bytes(tensor) for tensor in tensors.values())


def _tensors(module: nn.Module) -> list[Tensor]:
    attributes = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
    packed = [value for value in attributes if isinstance(value, PackedWeight)]
    inside = [tensor for weight in packed for tensor in vars(weight).values()]
    return [tensor for tensor in (*attributes, *inside) if isinstance(tensor, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def peak_bytes() -> int:
    """Peak memory of this process so far, in bytes (largest resident set)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: megabytes in each mode, also relative to full precision."""
    by_mode = content["measured"]
    full = by_mode[FULL]
    rows = [
        [
            mode,
            f"{entry['weight_bytes'] / MEGABYTE:.1f}",
            f"{entry['weight_bytes'] / full['weight_bytes']:.2f}",
            f"{entry['peak_bytes'] / MEGABYTE:.0f}",
        ]
        for mode, entry in by_mode.items()
    ]
    about = (
        f"{content['model']['depth']} blocks of width {content['model']['hidden_size']}, W4A8 g{content['group_size']};"
        " weights: all that the blocks hold; peak: of a process that makes the model and runs it once:"
    )
    header = ["mode", "weights (MB)", "÷ full", "peak (MB)"]
    align = ("left", "right", "right", "right")
    body = tabulate(rows, header, tablefmt=style, colalign=align, disable_numparse=True)
    return "\n".join([*heading(content), "", about, "", body, ""])


if __name__ == "__main__":
    json.dump(in_this_process(json.loads(sys.argv[1])), sys.stdout)
