"""Allocations (layer name → group size): reading and checking. A search writes one as JSON; a method reads it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.files import read_json
from qdit.core.grouping import check_group_size

Allocation = Mapping[str, int]


def read_allocation(path: Path) -> dict[str, int]:
    """Read the group size of each layer from an allocation file {"groups": {layer: size}, …}."""
    data = read_json(path, error=ConfigError)
    groups = data.get("groups") if isinstance(data, dict) else None
    if not isinstance(groups, dict) or not all(isinstance(g, int) for g in groups.values()):
        raise ConfigError(f'{path}: an allocation is {{"groups": {{layer name: group size}}}}; found something else')
    return groups


def layer_group_sizes(
    widths: Mapping[str, int], group_size: int | None, allocation: Allocation | None
) -> dict[str, int | None]:
    """Return the group size of every layer of `widths` (layer → input width), from one size or an allocation.

    Raises ConfigError if the allocation names a layer that the model does not have, leaves a layer out, or has a size
    that does not divide the width.
    """
    if allocation is None:
        size_of_layer: dict[str, int | None] = dict.fromkeys(widths, group_size)
    else:
        check_names(allocation, widths)
        size_of_layer = {name: allocation[name] for name in widths}
    for name, size in size_of_layer.items():
        if size is not None:
            check_group_size(size, widths[name], name)
    return size_of_layer


SMALLEST_FITTED = 4
"""Smallest group size that a width gets in the place of one that does not divide it."""


def fitted_group_size(width: int, group_size: int) -> int | None:
    """Return the largest divisor of an input width that is at most `group_size`.

    Returns None (the whole channel or token has one range) if this divisor is below 4 and is not `group_size` itself.
    """
    divisor = max(size for size in range(1, min(width, group_size) + 1) if width % size == 0)
    return divisor if divisor >= min(SMALLEST_FITTED, group_size) else None


def check_names(names: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise ConfigError unless the allocation's layer names are exactly `wanted`, the layers that are quantized."""
    names, wanted = set(names), set(wanted)
    if unknown := sorted(names - wanted):
        hint = did_you_mean(unknown[0], wanted)
        raise ConfigError(f"allocation: layer {unknown[0]!r} is not one of the {len(wanted)} quantized layers{hint}")
    if missing := sorted(wanted - names):
        raise ConfigError(
            f"allocation: {len(missing)} quantized layers have no group size, the first is {missing[0]!r}"
        )
