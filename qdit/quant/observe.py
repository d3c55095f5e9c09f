"""Looking at the inputs of sites while a model runs on calibration batches."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qdit.models.roles import Site
from qdit.quant.ranges import ema

Batch = tuple[Tensor, ...]
"""Positional arguments of the model's forward."""


def observe_inputs(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Batch], look: Callable[[Site, Tensor], None]
) -> None:
    """Run the model on every batch; `look(site, input)` is called for each site in the order of the data."""
    handles = []

    def hook_of(site: Site) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, inputs: look(site, inputs[0])

    try:
        for site in sites:
            handles.append(model.get_submodule(site.name).register_forward_pre_hook(hook_of(site)))
        with torch.inference_mode():
            for batch in batches:
                model(*batch)
    finally:
        for handle in handles:
            handle.remove()


class RunningRanges:
    """Exponential moving average of (min, max): run ← momentum · run + (1 − momentum) · new (P9)."""

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, name: str, low: Tensor, high: Tensor) -> None:
        """Take in the ranges of one batch; the first batch sets them."""
        if name in self.ranges:
            old_low, old_high = self.ranges[name]
            low, high = ema(old_low, low, self.momentum), ema(old_high, high, self.momentum)
        self.ranges[name] = (low, high)
