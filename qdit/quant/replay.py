"""Block-wise calibration of a network whose code between the blocks is not known.

GPTQ and learned rounding quantize one block after the other and need the inputs of each. For each block a whole forward
pass runs. In this pass the earlier blocks do not compute: they return their stored outputs. The code between the blocks
(reshaping, joining of streams, skip connections) runs as the class wrote it. So the bits are those of ordinary forward
passes with the same batches, for every class of diffusers, and each block computes only a few times.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qdit.core.errors import ConfigError, Unsupported
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.roles import Site
from qdit.quant.batches import Keywords, leaves, mapped, run
from qdit.quant.observe import Captured, observing

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call of a block."""


class ReplayWalk:
    """Gives the inputs of each block of a network for some batches, one block after the other.

    For each batch it stores the outputs of a block until no later block uses them. Usually these are the outputs of one
    block; with skip connections they are those of several.
    """

    def __init__(self, model: DiffusersNetwork, batches: Iterable[Keywords]) -> None:
        self.model, self.batches, self.block = model, list(batches), 0
        self.blocks = [model.get_submodule(path) for path in model.block_paths]
        self.kept: list[list[list[Any]]] = [[[] for _ in self.batches] for _ in self.blocks]
        self.calls, self.last_use = self._uses()

    def observe(self, sites: Sequence[Site], look: Callable[[Site, Tensor], None]) -> None:
        """Call `look(site, input)` for sites of one block.

        The walk first goes forward to this block and stays there.
        """
        self.go(number_of(sites))
        with observing(self.model, sites, look):
            for _ in self.outputs():
                pass

    def go(self, block: int) -> None:
        """Run the blocks up to the input of block number `block`. Blocks that are already quantized run quantized."""
        if block < self.block:
            raise ConfigError(f"walk: block {block} lies behind block {self.block}; take the blocks in their order")
        while self.block < block:
            for number, outputs in enumerate(self.outputs()):
                self.kept[self.block][number] = outputs
            self.block += 1
            for earlier, last in enumerate(self.last_use[: self.block]):
                if last < self.block:
                    self.kept[earlier] = [mapped(outputs, outline) for outputs in self.kept[earlier]]

    def outputs(self) -> Iterator[list[Any]]:
        """Return the outputs of the current block: for each batch, one output for each call in a forward pass."""
        for number in range(len(self.batches)):
            outputs: list[Any] = []

            def keep(_module: object, _args: Any, output: Any, outputs: list[Any] = outputs) -> None:
                outputs.append(output)
                if len(outputs) == self.calls[self.block]:
                    raise Captured

            self._pass(number, self.blocks[self.block].register_forward_hook(keep))
            yield outputs

    def inputs(self) -> Iterator[Call]:
        """Return the current block's arguments for each batch; Unsupported for a block that is called several times."""
        if self.calls[self.block] != 1:
            raise Unsupported(
                f"{self.model.block_paths[self.block]}: a forward pass calls this block {self.calls[self.block]} times;"
                " a block can be learned if it is called once"
            )
        for number in range(len(self.batches)):
            calls: list[Call] = []

            def keep(_module: object, args: Any, kwargs: Any, calls: list[Call] = calls) -> None:
                calls.append((args, kwargs))
                raise Captured

            self._pass(number, self.blocks[self.block].register_forward_pre_hook(keep, with_kwargs=True))
            yield calls[0]

    def _pass(self, number: int, hook: RemovableHandle) -> None:
        """One forward pass with a hook at the current block. The blocks before it return their stored outputs."""
        stored = [self.kept[index][number] for index in range(self.block)]
        with hooked([hook]), replaying(self.blocks[: self.block], stored), torch.inference_mode(), suppress(Captured):
            run(self.model, self.batches[number])

    def _uses(self) -> tuple[list[int], list[int]]:
        """For each block, how often a forward pass calls it, and the last block that uses its output.

        One pass of the first batch stores the shapes of all outputs. Then, one block after another, a block gives NaN,
        all others zeros, and nothing is computed but the code between the blocks. A block whose arguments hold a NaN
        uses the output of this block.
        """
        shapes: list[list[Any]] = [[] for _ in self.blocks]
        if not self.batches:
            return [0] * len(shapes), list(range(len(shapes)))

        def hook_of(number: int) -> Callable[..., None]:
            return lambda _module, _args, output: shapes[number].append(mapped(output, outline))

        handles = [block.register_forward_hook(hook_of(number)) for number, block in enumerate(self.blocks)]
        with hooked(handles), torch.inference_mode():
            run(self.model, self.batches[0])
        last = [max((index, *self._users(index, shapes))) for index in range(len(shapes))]
        return [len(outputs) for outputs in shapes], last

    def _users(self, index: int, shapes: list[list[Any]]) -> list[int]:
        """Numbers of the blocks that use the output of block `index`."""
        users: list[int] = []

        def hook_of(number: int) -> Callable[..., None]:
            def look(_module: object, args: Any, kwargs: Any) -> None:
                if any(isinstance(leaf, Tensor) and leaf.isnan().any() for leaf in leaves((args, kwargs))):
                    users.append(number)

            return look

        marked = [mapped(calls, unusable) if number == index else calls for number, calls in enumerate(shapes)]
        later = list(enumerate(self.blocks))[index + 1 :]
        handles = [block.register_forward_pre_hook(hook_of(n), with_kwargs=True) for n, block in later]
        with hooked(handles), replaying(self.blocks, marked), torch.inference_mode():
            run(self.model, self.batches[0])
        return users


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Context manager: removes these hooks of modules at its end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Outline:
    """Shape, type and device of a tensor whose values are not needed any more; one value stands for all elements."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    value: float = 0.0

    def tensor(self) -> Tensor:
        """Make a tensor with this shape, type and device."""
        return torch.full(self.shape, self.value, dtype=self.dtype, device=self.device)


def outline(value: Any) -> Any:
    """Replace a tensor by its `Outline`. A value that is not a tensor is returned unchanged."""
    return Outline(value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value


def unusable(value: Any) -> Any:
    """Replace a tensor by an `Outline` with NaN in every element, if its type has NaN."""
    return replace(value, value=torch.nan) if isinstance(value, Outline) and value.dtype.is_floating_point else value


def restored(value: Any) -> Any:
    """Copy a stored tensor, or make a new tensor from an `Outline`. Other values are returned unchanged."""
    if isinstance(value, Outline):
        return value.tensor()
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def replaying(blocks: Sequence[nn.Module], outputs: Sequence[Sequence[Any]]) -> Iterator[None]:
    """Context manager: each call of a block returns the next of its stored outputs and computes nothing.

    The tensors are copies, so that code between the blocks may change them in place.
    """
    before = [block.__dict__.get("forward") for block in blocks]
    for block, stored in zip(blocks, outputs, strict=True):
        block.__dict__["forward"] = Replay(stored)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.__dict__["forward"]
            else:
                block.__dict__["forward"] = forward


class Replay:
    """Stands in for a block's forward: each call returns the next stored output."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        self.outputs = iter(outputs)

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return mapped(next(self.outputs), restored)


def number_of(sites: Sequence[Site]) -> int:
    """Return the number of the block that contains all these sites; ConfigError for sites of several blocks."""
    blocks = {site.block for site in sites}
    if len(blocks) != 1 or (block := blocks.pop()) is None:
        raise ConfigError(f"walk: {len(sites)} sites are not of one block; give those of one")
    return block
