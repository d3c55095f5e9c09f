"""Recording the inputs of sites while a model runs on calibration batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qdit.models.roles import Site, replace
from qdit.quant.batches import Batch as Batch
from qdit.quant.batches import run
from qdit.quant.ranges import ema
from qdit.quant.sites import QuantizedLinear


class Tap(nn.Module):
    """An identity module that is not `nn.Identity`: at an operand site it keeps attention from one fused operation.

    Attention then computes its two matrix products, so that the operand can be observed.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x


@contextmanager
def tapped(model: nn.Module, sites: Iterable[Site]) -> Iterator[None]:
    """Context manager: operand sites without a quantizer hold a `Tap`, so that their inputs can be observed."""
    empty = [site for site in sites if isinstance(model.get_submodule(site.name), nn.Identity)]
    for site in empty:
        replace(model, site, Tap())
    try:
        yield
    finally:
        for site in empty:
            replace(model, site, nn.Identity())


@contextmanager
def observing(model: nn.Module, sites: Sequence[Site], look: Callable[[Site, Tensor], None]) -> Iterator[None]:
    """Context manager: each call of one of the sites also calls `look(site, input)`, without gradients.

    A site with an input transform shows the transformed input, which is what its quantizer sees. The last dimension of
    an input is its width, also that of a pointwise convolution.
    """

    def hook_of(site: Site) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].movedim(1, -1) if site.kind == "pointwise" else inputs[0]
            look(site, module.entered(x) if isinstance(module, QuantizedLinear) else x)

        return hook

    handles = []
    with tapped(model, sites), torch.inference_mode():
        try:
            for site in sites:
                handles.append(model.get_submodule(site.name).register_forward_pre_hook(hook_of(site)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def observe_inputs(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Batch], look: Callable[[Site, Tensor], None]
) -> None:
    """Run the model on every batch, and call `look(site, input)` for each site in the order of computation."""
    with observing(model, sites, look):
        for batch in batches:
            run(model, batch)


class Captured(Exception):
    """Exception that ends a forward pass whose other layers are not needed. It is not an error."""


class RunningRanges:
    """Exponential moving average of (min, max) by site: run ← momentum · run + (1 − momentum) · new."""

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, name: str, low: Tensor, high: Tensor) -> None:
        """Update the average of a site with the range of one batch. The first batch sets the start values."""
        if name in self.ranges:
            old_low, old_high = self.ranges[name]
            low, high = ema(old_low, low, self.momentum), ema(old_high, high, self.momentum)
        self.ranges[name] = (low, high)
