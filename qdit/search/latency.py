"""Measured times of linear layers by shape and group size. `qdit bench latency` writes them; a search may read them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import read_json, sha256_file

FORMAT = 1

Shape = tuple[int, int]
"""(inputs, outputs) of a linear."""


@dataclass(frozen=True)
class LatencyModel:
    """Measured seconds of one call of a linear layer, for each (inputs, outputs, group size).

    All calls had `rows` rows and the same backend (program that computes). `sha256`, the digest of the file, becomes
    part of the identity of a search that uses it.
    """

    backend: str
    rows: int
    weight_bits: int
    activation_bits: int
    seconds_of: Mapping[tuple[int, int, int], float]
    sha256: str

    def seconds(self, inputs: int, outputs: int, group_size: int) -> float:
        """Measured seconds of one call of a layer. ConfigError if its shape and group size were not measured."""
        try:
            return self.seconds_of[inputs, outputs, group_size]
        except KeyError:
            sizes = sorted(g for i, o, g in self.seconds_of if (i, o) == (inputs, outputs))
            shapes = sorted({f"{i}→{o}" for i, o, _ in self.seconds_of})
            known = f"measured are groups {sizes}" if sizes else f"measured are {', '.join(shapes)}"
            raise ConfigError(
                f"no latency of a layer {inputs}→{outputs} in groups of {group_size}: {known}; measure it with"
                " `qdit bench latency`"
            ) from None

    def total(self, layers: Iterable[tuple[int, int, int]]) -> float:
        """Sum of the measured seconds of layers, each given as (inputs, outputs, group size)."""
        return sum(self.seconds(*layer) for layer in layers)


def read_latency(path: Path) -> LatencyModel:
    """Read a latency model from a file; DataError if the file holds no latency model."""
    content = read_json(path)
    try:
        if content["format"] != FORMAT or content["bench"] != "latency":
            raise ValueError
        entries = {_key(entry): float(entry["seconds"]["minimum"]) for entry in content["measured"]}
        model = LatencyModel(
            str(content["backend"]),
            int(content["rows"]),
            int(content["weight_bits"]),
            int(content["activation_bits"]),
            entries,
            sha256_file(path),
        )
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: not a latency model; make one with `qdit bench latency {path}`") from None
    if not entries or min(entries.values()) <= 0:
        raise DataError(
            f"{path}: found {len(entries)} times; at least one is needed, and all must be above 0; measure again"
        )
    return model


def latency_at(path: Path | None, weight_bits: int, activation_bits: int) -> LatencyModel | None:
    """The latency model of a file, None without a file; ConfigError for one that was measured with other bits."""
    if path is None:
        return None
    model = read_latency(path)
    if (model.weight_bits, model.activation_bits) != (weight_bits, activation_bits):
        raise ConfigError(
            f"{path}: was measured at w{model.weight_bits}a{model.activation_bits}, the search is at"
            f" w{weight_bits}a{activation_bits}; measure these bits with `qdit bench latency`"
        )
    return model


def _key(entry: Mapping[str, Any]) -> tuple[int, int, int]:
    return int(entry["inputs"]), int(entry["outputs"]), int(entry["group_size"])
