"""Block-wise calibration: the inputs of one block are stored, so that each pass computes one block only.

Whole forward passes for every block would compute depth² blocks. A walk computes each block only twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.batches import Batch, Keywords, run, timestep_of
from qdit.quant.observe import Captured, observing
from qdit.quant.replay import ReplayWalk, number_of


def walk_over(model: Network, batches: Iterable[Batch]) -> "BlockWalk | ReplayWalk":
    """Start a walk over the blocks of a network: `BlockWalk` for a DiT or STDiT3, `ReplayWalk` for diffusers."""
    return (
        ReplayWalk(model, keywords_only(batches)) if isinstance(model, DiffusersNetwork) else BlockWalk(model, batches)
    )


def keywords_only(batches: Iterable[Batch]) -> list[Keywords]:
    """Return the batches of a network of diffusers as a list; ConfigError for positional arguments."""
    data = list(batches)
    for batch in data:
        if not isinstance(batch, Keywords):
            raise ConfigError(
                "batch: a transformer of diffusers takes keyword arguments, found a tuple; give `Keywords` batches"
            )
    return [batch for batch in data if isinstance(batch, Keywords)]


class BlockWalk:
    """Gives the inputs of one block of a model after the other, from the first block to the last, for some batches.

    Each block takes the tokens from the block before it, and further arguments that are the same for all blocks. The
    bits are those of whole forward passes with the same batches. Only the tokens at one block are in memory, for all
    batches.
    """

    def __init__(self, model: Network, batches: Iterable[Batch]) -> None:
        self.model = model
        self.paths = block_paths(model)
        self.block = 0
        self.timesteps: list[Tensor] = []
        self.arguments: list[tuple[Tensor, ...]] = []
        handle = model.get_submodule(self.paths[0]).register_forward_pre_hook(self._keep)
        try:
            with torch.inference_mode():
                for batch in batches:
                    self.timesteps.append(timestep_of(batch))
                    with suppress(Captured):
                        run(model, batch)
        finally:
            handle.remove()

    def _keep(self, _module: object, arguments: tuple[Tensor, ...]) -> None:
        self.arguments.append(arguments)
        raise Captured

    def observe(self, sites: Sequence[Site], look: Callable[[Site, Tensor], None]) -> None:
        """Call `look(site, input)` for sites of one block.

        The walk first goes forward to this block and stays there.
        """
        self.go(number_of(sites))
        with observing(self.model, sites, look):
            for _ in self._outputs():
                pass

    def go(self, block: int) -> None:
        """Run the blocks, quantized or not, up to the input of block number `block`."""
        if block < self.block:
            raise ConfigError(f"walk: block {block} lies behind block {self.block}; take the blocks in their order")
        while self.block < block:
            for number, tokens in enumerate(self._outputs()):
                self.arguments[number] = (tokens, *self.arguments[number][1:])
            self.block += 1

    def _outputs(self) -> Iterator[Tensor]:
        """Output of the current block, batch by batch."""
        block = self.model.get_submodule(self.paths[self.block])
        for timestep, arguments in zip(self.timesteps, self.arguments, strict=True):
            self.model.step_context.timestep = timestep
            with torch.inference_mode():
                tokens = block(*arguments)
            yield tokens


def block_paths(model: Network) -> list[str]:
    """Return the paths of the blocks in the order in which the network runs them."""
    path_of_block = {site.block: site.block_path for site in model.sites() if site.block is not None}
    return [path_of_block[block] for block in sorted(path_of_block)]
