"""Count the size in MB of a quantized transformer of diffusers from its checkpoint.

Q-DiT's formula counts all parameters at the weight bits, also those that stay in floating point. In FLUX or Wan these
are modulations and text projections of every block, so here each tensor counts as it is: packed codes and 4 bytes for
each (scale, zero point) pair at the sites, 16 bits for every other element.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from qdit.quant.folder import read_config, tensors_file
from qdit.quant.size import PAIR_BYTES


def size_of_generic_mb(checkpoint: Path, sites: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the size of a checkpoint's tensors in MB (10⁶ bytes). Only the header of its file is read."""
    counted = sum(site_bytes(site) for site in sites.values() if site.get("shape"))
    with safe_open(checkpoint / tensors_file(read_config(checkpoint)), framework="np") as data:
        others = [name for name in data.keys() if not is_of_site(name, sites)]  # noqa: SIM118 - it is not a mapping
        elements = sum(prod(data.get_slice(name).get_shape()) for name in others)
    return (counted + 2 * elements) / 1e6


def site_bytes(site: Mapping[str, Any]) -> float:
    """Count the bytes of one site: its codes, its scales and zero points, and what else it stores."""
    rows, columns = site["shape"]
    pairs = prod(site["groups"]) if site.get("groups") else 0
    extra = sum(site.get("extra_bytes", {}).values())
    return float(rows * columns * site["weight_bits"] / 8 + PAIR_BYTES * pairs + extra)


def is_of_site(name: str, sites: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a tensor belongs to a quantized site and is not its bias."""
    path, _, part = name.rpartition(".")
    while path:
        if path in sites:
            return part != "bias" or not sites[path].get("shape")
        path = path.rpartition(".")[0]
    return False
