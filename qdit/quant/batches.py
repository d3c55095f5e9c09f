"""Batches of calibration data: the arguments of forward passes, recorded for some samples.

A batch of a DiT or STDiT3 holds positional arguments, that of a diffusers network keyword arguments.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError, Unsupported
from qdit.models.generic.network import step_of


class Keywords:
    """The keyword arguments of one forward pass over some samples.

    `samples` are arguments with one row for each sample: tensors (N, …), lists of N values, or mappings of these.
    `shared` are arguments that all samples have in common, of any kind (positions, sizes, numbers).
    """

    def __init__(self, samples: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> None:
        self.samples, self.shared = dict(samples), dict(shared or {})
        counts = {count for value in self.samples.values() for count in row_counts(value)}
        if len(counts) != 1:
            raise ConfigError(
                f"batch: its arguments {', '.join(self.samples)} have {sorted(counts)} rows, all must have the same"
                " number; put arguments that are the same for all samples into `shared`"
            )
        self.rows = counts.pop()

    def __len__(self) -> int:
        return self.rows

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the forward pass: `samples` and `shared` together."""
        return {**self.samples, **self.shared}

    @property
    def timestep(self) -> Tensor:
        """Return the timestep (N,) of each sample; raise Unsupported if the network has no single timestep for each."""
        timestep = step_of(self.arguments())
        if timestep is None:
            raise Unsupported("the forward arguments have no single timestep per sample")
        return timestep

    def take(self, rows: Tensor) -> "Keywords":
        """Return the batch of only the samples with the indices `rows`."""
        return Keywords({name: rows_of(value, rows) for name, value in self.samples.items()}, self.shared)

    def to(self, device: torch.device) -> "Keywords":
        """Copy the batch with all its tensors to a device."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return Keywords(mapped(self.samples, moved), mapped(self.shared, moved))


Batch = tuple[Tensor, ...] | Keywords
"""Arguments of the model's forward: positional, (x, timestep, …), or keywords."""


def run(model: nn.Module, batch: Batch) -> Any:
    """Compute the model's output for a batch."""
    return model(**batch.arguments()) if isinstance(batch, Keywords) else model(*batch)


def timestep_of(batch: Batch) -> Tensor:
    """Return the timestep (N,) of each sample of a batch."""
    return batch.timestep if isinstance(batch, Keywords) else batch[1]


def positional(batches: Iterable[Batch]) -> list[tuple[Tensor, ...]]:
    """Return the batches of a DiT or STDiT3 as a list; raise Unsupported for batches of keyword arguments."""
    data = list(batches)
    tuples = [batch for batch in data if not isinstance(batch, Keywords)]
    if len(tuples) < len(data):
        raise Unsupported("gradients with respect to the inputs are not defined for keyword arguments")
    return tuples


def rows_in(batch: Batch) -> int:
    """Return the number of samples in a batch."""
    return len(batch) if isinstance(batch, Keywords) else len(batch[0])


def row_counts(value: Any) -> list[int]:
    """Return the numbers of rows of all tensors and lists in an argument."""
    if isinstance(value, Mapping):
        return [count for inner in value.values() for count in row_counts(inner)]
    return [len(value)]


def rows_of(value: Any, rows: Tensor) -> Any:
    """Return the rows with the indices `rows` of an argument that has one row for each sample."""
    if isinstance(value, Mapping):
        return {name: rows_of(inner, rows) for name, inner in value.items()}
    if isinstance(value, Tensor):
        return value[rows.to(value.device)]
    return [value[int(row)] for row in rows]


def leaves(tree: Any) -> list[Any]:
    """Return all values in nested tuples, lists and mappings, from left to right."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, tuple | list):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to each value in nested tuples, lists and mappings, and keep the nesting."""
    if isinstance(tree, Mapping):
        return {name: mapped(value, change) for name, value in tree.items()}
    if isinstance(tree, tuple):
        values = [mapped(value, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    if isinstance(tree, list):
        return [mapped(value, change) for value in tree]
    return change(tree)
