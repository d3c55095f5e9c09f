"""Inputs and targets of blocks with keyword arguments and several token streams (image, text), to learn rounding.

Learned rounding draws samples at random from all calibration data. So the arguments of a block are stored for all
samples, and it must be known which dimension of an argument counts the samples. To find it, a forward pass over one
sample is compared with one over two samples: the size of this dimension doubles.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from qdit.core.errors import Unsupported
from qdit.models.generic.network import DiffusersNetwork
from qdit.quant.batches import Keywords, leaves, mapped, run
from qdit.quant.replay import Call, ReplayWalk, hooked


@dataclass(frozen=True)
class SampleAxis:
    """The dimension of a tensor that counts the samples, and the number of the tensor's rows for each sample."""

    dim: int
    each: int


Layout = list[SampleAxis | None]
"""For each value in nested arguments: where its samples lie; None if all samples share the value."""


class KeywordUnits:
    """Inputs of the blocks of a quantized network, and outputs of the same blocks of the full-precision reference."""

    def __init__(self, model: DiffusersNetwork, reference: DiffusersNetwork, batches: Sequence[Keywords]) -> None:
        self.model, self.walks = model, (ReplayWalk(model, batches), ReplayWalk(reference, batches))
        self.layouts = block_layouts(reference, batches[0])
        self.timestep = timesteps(batches)

    def enter(self, block: int, path: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return a function (sample indices) → outputs of the block for these samples, and the targets of all samples.

        Outputs and targets have the shape (rows, tokens, width): the tokens of all streams, one after the other.
        """
        ours, reference = self.walks
        for walk in self.walks:
            walk.go(block)
        entering, leaving = self.layouts[block]
        stored = StoredCalls(list(ours.inputs()), entering, path)
        targets = torch.cat([joined(outputs[0], leaving, path) for outputs in reference.outputs()])
        module = self.model.get_submodule(path)

        def outputs(rows: Tensor) -> Tensor:
            self.model.step_context.timestep = None if self.timestep is None else self.timestep[rows]
            args, kwargs = stored.take(rows)
            return joined(module(*args, **kwargs), leaving, path)

        return outputs, targets


def timesteps(batches: Iterable[Keywords]) -> Tensor | None:
    """Return the timestep of every sample; None if the network has no single timestep per sample."""
    try:
        return torch.cat([batch.timestep for batch in batches])
    except Unsupported:
        return None


class StoredCalls:
    """The arguments of a block's forward passes, stored for all samples."""

    def __init__(self, calls: Sequence[Call], layout: Layout, path: str) -> None:
        columns = list(zip(*(leaves(call) for call in calls), strict=True))
        if len(columns) != len(layout):
            raise Unsupported(f"{path}: the arguments of this block change with the number of samples")
        self.template, self.layout = calls[0], layout
        self.values = [stored(column, rows, path) for column, rows in zip(columns, layout, strict=True)]

    def take(self, rows: Tensor) -> Call:
        """Return the arguments for the samples with the indices `rows`."""
        values = iter(self.values)
        axes = iter(self.layout)

        def of_rows(_leaf: Any) -> Any:
            value, axis = next(values), next(axes)
            if axis is None:
                return value
            index = rows if axis.each == 1 else (rows[:, None] * axis.each + torch.arange(axis.each)).flatten()
            return value.index_select(axis.dim, index.to(value.device))

        return cast("Call", mapped(self.template, of_rows))


def stored(column: Sequence[Any], rows: SampleAxis | None, path: str) -> Any:
    """Join one argument's values in all batches to one value for all samples."""
    first = column[0]
    if rows is not None:
        return torch.cat(list(column), dim=rows.dim)
    if not isinstance(first, Tensor):
        return first
    if any(not torch.equal(first, other) for other in column[1:]):
        raise Unsupported(
            f"{path}: an argument of shape {tuple(first.shape)} differs between the batches but has no dimension of"
            " samples; give calibration samples of equal sizes"
        )
    return first.clone()


def joined(output: Any, layout: Layout, path: str) -> Tensor:
    """Join the tokens of all streams of a block: (samples, tokens, width).

    Streams of different widths become one long stream of width 1. They are scaled so that their squared error is a mean
    over the channels, as that of streams of the same width.
    """
    values = leaves(output)
    if len(values) != len(layout):
        raise Unsupported(f"{path}: the outputs of this block change with the number of samples")
    streams = [
        value.movedim(axis.dim, 0).reshape(value.shape[axis.dim] // axis.each, -1, value.shape[-1])
        for value, axis in zip(values, layout, strict=True)
        if axis is not None and value.is_floating_point()
    ]
    if not streams:
        raise Unsupported(f"{path}: no output of this block has a row for each sample")
    if len({stream.shape[-1] for stream in streams}) > 1:
        streams = [(stream / stream.shape[-1] ** 0.5).reshape(len(stream), -1, 1) for stream in streams]
    return streams[0] if len(streams) == 1 else torch.cat(streams, dim=1)


def block_layouts(model: DiffusersNetwork, batch: Keywords) -> list[tuple[Layout, Layout]]:
    """Find for each block which dimensions of its arguments and of its outputs count the samples."""
    seen = [block_shapes(model, batch.take(torch.zeros(count, dtype=torch.long))) for count in (1, 2)]
    return [
        (layout(once[0], twice[0], path), layout(once[1], twice[1], path))
        for path, once, twice in zip(model.block_paths, *seen, strict=True)
    ]


def block_shapes(model: DiffusersNetwork, batch: Keywords) -> list[tuple[list[Any], list[Any]]]:
    """Return the shapes of each block's arguments and outputs in one forward pass; values that are no tensors stay."""
    seen: list[tuple[list[Any], list[Any]]] = [([], []) for _ in model.block_paths]

    def shape(value: Any) -> Any:
        return value.shape if isinstance(value, Tensor) else value

    def hook_of(number: int) -> Callable[..., None]:
        def keep(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen[number] = ([shape(v) for v in leaves((args, kwargs))], [shape(v) for v in leaves(output)])

        return keep

    blocks = [model.get_submodule(path) for path in model.block_paths]
    handles = [block.register_forward_hook(hook_of(n), with_kwargs=True) for n, block in enumerate(blocks)]
    with hooked(handles), torch.inference_mode():
        run(model, batch)
    return seen


def layout(once: Sequence[Any], twice: Sequence[Any], path: str) -> Layout:
    """Find for each value the dimension that counts the samples, from its shapes for one sample and for two."""
    if len(once) != len(twice):
        raise Unsupported(f"{path}: the arguments of this block change with the number of samples")
    return [sample_axis(single, double, path) for single, double in zip(once, twice, strict=True)]


def sample_axis(single: Any, double: Any, path: str) -> SampleAxis | None:
    """Find the dimension of a value that counts the samples; None if it is the same for one sample and for two."""
    if not isinstance(single, torch.Size):
        if single is double or single == double:
            return None
        raise Unsupported(f"{path}: a value ({single!r:.40}, then {double!r:.40}) changes with the number of samples")
    different = [dim for dim, (few, many) in enumerate(zip(single, double, strict=True)) if few != many]
    if not different:
        return None
    if len(different) > 1 or double[different[0]] != 2 * single[different[0]]:
        raise Unsupported(f"{path}: no dimension of {tuple(single)} doubles for two samples, {tuple(double)}")
    return SampleAxis(different[0], single[different[0]])
