"""Mixed precision: layers whose rounding changes the output most get more bits; the mean of the bits has a limit."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from qdit.core.errors import ConfigError, naming
from qdit.models.network import Network
from qdit.models.roles import Site, linear_of
from qdit.quant.apply import GroupSizes, granularity
from qdit.quant.batches import Batch, run
from qdit.quant.ranges import Ranges
from qdit.quant.weight import quantize_weight


def mixed_bits(
    model: Network,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    *,
    low: int,
    high: int,
    mean: float,
    rule: Ranges,
    group_sizes: GroupSizes,
) -> dict[str, int]:
    """Choose the weight bits of each site: `high` where rounding to `low` bits changes the network's output most.

    The mean of the bits over all weights of the sites is at most `mean`. Raises ConfigError if `mean` is not between
    `low` and `high`.
    """

    def rounded(site: Site, weight: Tensor) -> Tensor:
        shared = granularity(group_sizes[site.name])
        with naming(site.name):
            return quantize_weight(weight, bits=low, granularity=shared, ranges=rule).dequantize()

    counts = {site.name: linear_of(model, site).weight.numel() for site in sites}
    return raised_bits(output_sensitivity(model, sites, batches, rounded), counts, low=low, high=high, mean=mean)


def output_sensitivity(
    model: Network, sites: Sequence[Site], batches: Iterable[Batch], rounded: Callable[[Site, Tensor], Tensor]
) -> dict[str, float]:
    """Measure for each site the mean squared change of the network's output if only this site's weight is rounded.

    `rounded(site, weight)` returns the rounded weight. The model is unchanged afterwards.
    """
    data = list(batches)
    result = {}
    with torch.inference_mode():
        full = [run(model, batch) for batch in data]
        for site in sites:
            weight = linear_of(model, site).weight.data
            before = weight.clone()
            try:
                weight.copy_(rounded(site, before))
                changes = [
                    (run(model, batch) - output).square().mean() for batch, output in zip(data, full, strict=True)
                ]
            finally:
                weight.copy_(before)
            result[site.name] = float(torch.stack(changes).mean())
    return result


def raised_bits(
    sensitivity: Mapping[str, float], sizes: Mapping[str, int], *, low: int, high: int, mean: float
) -> dict[str, int]:
    """Give each site `low` or `high` bits, so that the mean of the bits over all weights is at most `mean`.

    `sizes` has the number of weights of each site. Sites are raised in the order of sensitivity / size, the largest
    first; a site that would exceed the mean is skipped. Raises ConfigError if `mean` is not between `low` and `high`.
    """
    if not low <= mean <= high:
        raise ConfigError(f"mean_bits {mean:g}: allowed are {low} (the weight bits) to {high}; choose a mean between")
    bits = dict.fromkeys(sensitivity, low)
    left = (mean - low) * sum(sizes[name] for name in sensitivity)
    for name in sorted(sensitivity, key=lambda name: -sensitivity[name] / sizes[name]):
        cost = (high - low) * sizes[name]
        if cost <= left:
            bits[name], left = high, left - cost
    return bits
