"""Finite-set calibration (TFMQ-DM): one static range per timestep, for features that depend on the timestep only."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.apply import Bits, bits_of
from qdit.quant.observe import Batch, RunningRanges, observe_inputs
from qdit.quant.ranges import running_parameters
from qdit.quant.sites import quantize_site
from qdit.quant.temporal import TimestepStaticActivation

MOMENTUM = 0.95


def calibrate_finite_set(
    model: Network, sites: Sequence[Site], data: Iterable[tuple[float, Iterable[Batch]]], *, bits: Bits
) -> None:
    """Give each site a static range per timestep: running min-max (0.95) over its batches, extended to zero (TFMQ-DM).

    `data` gives pairs of a timestep and its batches, in ascending order of the timesteps.
    """
    timesteps, rows = [], []
    for timestep, batches in data:
        ranges = RunningRanges(momentum=MOMENTUM)

        def look(site: Site, x: Tensor, ranges: RunningRanges = ranges) -> None:
            ranges.update(site.name, *x.aminmax())

        observe_inputs(model, sites, batches, look)
        timesteps.append(timestep)
        rows.append(ranges.ranges)
    for site in sites:
        pairs = [running_parameters(*ranges[site.name], bits_of(bits, site)) for ranges in rows]
        scale, zero_point = (torch.stack(column) for column in zip(*pairs, strict=True))
        quantizer = TimestepStaticActivation(
            bits=bits_of(bits, site),
            scale=scale,
            zero_point=zero_point,
            timesteps=torch.tensor(timesteps, device=scale.device),
            context=model.step_context,
        )
        quantize_site(model, site, activation=quantizer)
