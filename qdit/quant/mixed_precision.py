"""Mixed precision: the layers whose rounding changes the output most get more bits.

The mean of the bits has a limit.
"""

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
    """Site name → weight bits: `high` where a weight that is rounded to `low` bits changes the output most.

    The mean over all weights is at most `mean`; ConfigError if it is not between `low` and `high`.
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
    """Site name → mean squared change of the network's output if the weight of this site alone is rounded.

    `rounded(site, weight)` is the rounded weight. The model is unchanged afterwards.
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
    """Site name → `low` or `high` bits, so that the mean over all weights is at most `mean`.

    `sizes` are numbers of weights. Sites with the largest sensitivity for each weight come first; one that does not fit
    is passed over. ConfigError if the mean is not between both.
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
