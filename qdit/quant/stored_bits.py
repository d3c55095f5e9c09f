"""Bits per weight as a checkpoint's file stores it, and which elements share a scale. Reads files without torch.

The bits are those of the file, not of a formula: packed codes, scales, zero points, tables, input transforms, factors
and low-rank branches of all sites with a quantized weight, divided by the number of these weights. Biases and the
ranges of inputs do not count, and neither does a factor that is folded into another layer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import CheckpointError
from qdit.core.run import FULL_PRECISION_BITS
from qdit.quant.folder import tensors_file

NOT_WEIGHTS = ("bias", "weight", "activation")
"""Parts of a site that are no part of its quantized weight; `weight` is one in floating point."""

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the format safetensors."""


def tensor_bytes(path: Path) -> dict[str, int]:
    """Read the bytes of each tensor in a safetensors file from its header; CheckpointError for other files."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"header of {length} bytes")
            header = json.loads(file.read(length))
        ends = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        return {name: int(last) - int(first) for name, (first, last) in ends.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise CheckpointError(f"{path}: not a readable safetensors file ({problem}); quantize again") from None


def weight_bits_stored(sites: Mapping[str, Mapping[str, Any]], stored: Mapping[str, int]) -> float | None:
    """Compute the stored bits per quantized weight of a checkpoint's sites; None if no weight is quantized.

    `stored` are the bytes of each tensor by its name.
    """
    quantized = {name: site for name, site in sites.items() if site["weight_bits"] < FULL_PRECISION_BITS}
    weights = sum(site["shape"][0] * site["shape"][1] for site in quantized.values())
    counted = 0
    for name, count in stored.items():
        site, part = _owner(name, quantized)
        counted += count if site and part not in NOT_WEIGHTS else 0
    return 8 * counted / weights if weights else None


def _owner(tensor: str, sites: Mapping[str, Any]) -> tuple[str, str]:
    """(site, its part) of a tensor's name; two empty texts for a tensor outside all sites."""
    parts = tensor.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (site := ".".join(parts[:end])) in sites:
            return site, parts[end]
    return "", ""


def bits_per_weight(folder: Path, config: Mapping[str, Any]) -> float | None:
    """Compute `weight_bits_stored` for a checkpoint folder and its configuration; None if no weight is quantized."""
    return weight_bits_stored(config["sites"], tensor_bytes(folder / tensors_file(config)))


def granularity_text(sites: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which elements share one range, first of the inputs and then of the weights: `token × channel`.

    If both are equal, they are written once: `groups of 16`. If the sites differ, `several` takes the place of a name.
    The text is empty if no site has a quantized weight and a quantized input.
    """
    linears = [site for site in sites.values() if site["weight_bits"] < FULL_PRECISION_BITS and site.get("activation")]
    inputs, weights = ({text(site) for site in linears} for text in (_of_inputs, _of_weight))
    if not linears:
        return ""
    pair = [names.pop() if len(names) == 1 else "several" for names in (inputs, weights)]
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} × {pair[1]}"


def _of_inputs(site: Mapping[str, Any]) -> str:
    activation = site["activation"]
    size = activation.get("group_size", activation.get("block_size"))
    if size:
        return f"groups of {size}"
    if activation["kind"] == "static":
        count = activation["count"]
        return "tensor" if count == 1 else f"tensor, groups of {site['shape'][1] // count}"
    if activation["kind"] == "timestep-static":
        return "tensor and timestep"
    return str(activation.get("sharing", "token"))


def _of_weight(site: Mapping[str, Any]) -> str:
    weight = site.get("weight") or {}
    if size := weight.get("block_size"):
        return f"groups of {size}"
    rows, groups = site["groups"] or weight.get("scales") or (site["shape"][0], 1)
    if groups > 1:
        return f"groups of {site['shape'][1] // groups}"
    return "tensor" if rows == 1 and site["shape"][0] > 1 else "channel"
