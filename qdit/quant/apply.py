"""The steps from which methods are built: rounding, GPTQ, and dynamic or calibrated activation quantizers.

Each function changes linear sites in place. So a method calls it on its own copy of the model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from qdit.core.affine import Granularity, group, group_extremes, minmax_asymmetric
from qdit.core.errors import DataError, naming
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import Site, linear_of
from qdit.quant.activation import DynamicActivation, FactoredActivation, Sharing, StaticActivation
from qdit.quant.allocation import fitted_group_size, layer_group_sizes
from qdit.quant.batches import rows_in
from qdit.quant.gptq import HessianAccumulator, gptq
from qdit.quant.observe import Batch, RunningRanges, observe_inputs
from qdit.quant.passes import rows_of_pass
from qdit.quant.ranges import (
    Ranges,
    Side,
    minmax,
    running_parameters,
    side_of,
    threshold_parameters,
    threshold_range,
    threshold_range_2d,
    zero_minmax,
)
from qdit.quant.replay import ReplayWalk
from qdit.quant.sites import activation_of, quantize_site
from qdit.quant.store import GrowingStore, pieces
from qdit.quant.walk import BlockWalk, walk_over
from qdit.quant.weight import QuantizedWeight, quantize_weight

GroupSizes = Mapping[str, int | None]
"""Site name → group size; None is per channel (weights), per tensor (static) or per token (dynamic)."""

SILENT = "rounded_to_nearest"
"""Key of a method's log: the layers that GPTQ could not look at, since every calibration input of them is zero."""

FITTED = "fitted_group_sizes"
"""Key of a method's log: layers whose group size is not the one that was given, with their own; null is none."""

Bits = int | Mapping[str, int]
"""Bits of every site, or site name → bits."""


def granularity(group_size: int | None) -> Granularity:
    """Return the granularity of a weight with this group size: groups of inputs, or whole output channels for None."""
    return Granularity("channel") if group_size is None else Granularity("group", group_size)


def bits_of(bits: Bits, site: Site) -> int:
    """Return the number of bits of a site from `bits`: one number for all sites, or a number for each site name."""
    return bits if isinstance(bits, int) else bits[site.name]


def round_weights(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    bits: Bits,
    rule: Ranges = minmax,
    group_sizes: GroupSizes | None = None,
    per_tensor: bool = False,
) -> None:
    """Round the weights of sites to the nearest codes.

    `rule` computes the ranges: per tensor with `per_tensor`, per group with `group_sizes`, otherwise per output
    channel.
    """
    for site in sites:
        weight = linear_of(model, site).weight.detach().flatten(1)
        size = None if group_sizes is None else group_sizes[site.name]
        shared = Granularity("tensor") if per_tensor else granularity(size)
        with naming(site.name):
            quantized = quantize_weight(weight, bits=bits_of(bits, site), granularity=shared, ranges=rule)
        quantize_site(model, site, weight=quantized)


def gptq_weights(
    model: Network,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    *,
    bits: int,
    group_sizes: GroupSizes,
    stale_groups: bool = True,
    sequential: bool = True,
) -> dict[str, list[str]]:
    """Run GPTQ on the weights of sites, block by block; sites outside the blocks come first.

    Only the Hessians of one block are in memory. With `sequential`, the inputs of a block come from the quantized
    layers before it. Otherwise all Hessians come from the unchanged model. If a site has an activation quantizer, its
    inputs are quantized before they enter the Hessian, as in Q-DiT's release. If all inputs of a site are zero (a
    pruned MLP), its weight is rounded to nearest with GPTQ's scales. The returned log lists such sites under
    `rounded_to_nearest`. Without such sites the log is empty.
    """
    data, stages = list(batches), blocks_of(sites)
    silent: list[str] = []
    walk = None if sequential else walk_over(model, data)
    for stage in stages:
        hessians = {site.name: new_hessian(model, site) for site in stage}

        def add(site: Site, x: Tensor, hessians: dict[str, HessianAccumulator] = hessians) -> None:
            quantizer = activation_of(model, site)
            hessians[site.name].add(x if quantizer is None else quantizer(x))

        if (block := stage[0].block) is None:
            observe_inputs(model, stage, data, add)
        else:
            walk = walk or walk_over(model, data)
            walk.observe(stage, add)
            if not sequential and stage is not stages[-1]:
                walk.go(block + 1)
        for site in stage:
            weight, hessian = linear_of(model, site).weight.detach().flatten(1), hessians.pop(site.name).hessian
            size = group_sizes[site.name]
            quantized: QuantizedWeight
            with naming(site.name):
                if hessian.diagonal().any():
                    quantized = gptq(weight, hessian, bits=bits, group_size=size, stale_groups=stale_groups)
                else:
                    quantized = quantize_weight(weight, bits=bits, granularity=granularity(size), ranges=zero_minmax)
                    silent.append(site.name)
            quantize_site(model, site, weight=quantized)
    return {SILENT: silent} if silent else {}


def new_hessian(model: nn.Module, site: Site) -> HessianAccumulator:
    """Create an empty GPTQ Hessian for the inputs of a linear site, on the device of its weight."""
    return HessianAccumulator(input_width(model, site), device=linear_of(model, site).weight.device)


def input_width(model: nn.Module, site: Site) -> int:
    """Return the number of inputs of a linear site."""
    return linear_of(model, site).weight.shape[1]


def input_widths(model: nn.Module, sites: Iterable[Site]) -> dict[str, int]:
    """Return the number of inputs of each linear site, by its name."""
    return {site.name: input_width(model, site) for site in sites}


def site_group_sizes(
    model: Network, sites: Iterable[Site], group_size: int | None, allocation: Mapping[str, int] | None = None
) -> dict[str, int | None]:
    """Return the group size of every site, from one size or an allocation.

    In a diffusers transformer, a layer whose width `group_size` does not divide gets the largest smaller divisor of its
    width (`fitted_group_size`). In our own networks, and in an allocation, such a size raises ConfigError.
    """
    widths = input_widths(model, sites)
    if allocation is None and group_size is not None and isinstance(model, DiffusersNetwork):
        return {name: fitted_group_size(width, group_size) for name, width in widths.items()}
    return layer_group_sizes(widths, group_size, allocation)


def fitted_log(
    group_sizes: GroupSizes, group_size: int | None, allocation: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the part of a method's log that names the layers whose group size is not `group_size`."""
    fitted = {} if allocation is not None else {name: s for name, s in group_sizes.items() if s != group_size}
    return {FITTED: fitted} if fitted else {}


def insert_dynamic(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    bits: int,
    group_sizes: GroupSizes,
    sharing: Sharing = "token",
    include_zero: bool = True,
) -> None:
    """Put a dynamic activation quantizer before each site."""
    for site in sites:
        quantizer = DynamicActivation(
            bits=bits, group_size=group_sizes[site.name], sharing=sharing, include_zero=include_zero
        )
        quantize_site(model, site, activation=quantizer)


def collect_inputs(model: Network, sites: Sequence[Site], batches: Iterable[Batch]) -> Iterator[tuple[Site, Tensor]]:
    """Yield each site with all its inputs on the batches, (samples, …). Only inputs of one block are in memory.

    A loop that keeps no inputs should `del` them at the end of its body, so that they are free before the next block is
    computed. The caller must not change the model before the last site.
    """
    data = list(batches)
    count = sum(rows_in(batch) for batch in data)
    data = list(pieces(data, rows_of_pass(model, data[0]))) if data else []
    walk: BlockWalk | ReplayWalk | None = None
    for stage in blocks_of(sites):
        seen: dict[str, GrowingStore] = {}

        def keep(site: Site, x: Tensor, seen: dict[str, GrowingStore] = seen) -> None:
            if site.name not in seen:  # a layer may see several rows of each sample, such as the frames of a clip
                seen[site.name] = GrowingStore(len(x) * count // rows_in(data[0]))
            seen[site.name].append(x)

        if stage[0].block is None:
            observe_inputs(model, stage, data, keep)
        else:
            walk = walk or walk_over(model, data)
            walk.observe(stage, keep)
        for site in stage:
            require_seen(site, seen)
            yield site, seen.pop(site.name).whole()


def observe_batches(
    model: Network, sites: Sequence[Site], batches: Iterable[Batch], look: Callable[[Site, Tensor], None]
) -> None:
    """Call `look(site, input)` once for each site and batch, in the order of the batches.

    A batch that is too large for one pass is computed in pieces, block by block.
    """
    for batch in batches:
        if rows_in(batch) <= rows_of_pass(model, batch):
            observe_inputs(model, sites, [batch], look)
        else:
            for site, x in collect_inputs(model, sites, [batch]):
                look(site, x)
                del x  # before the next block is computed


def require_seen(site: Site, seen: Mapping[str, object]) -> None:
    """Raise DataError for a site that no forward pass of the calibration data called."""
    if not seen.get(site.name):
        raise DataError(
            f"{site.name}: no forward pass over the calibration data calls this layer, so its inputs have no range;"
            " give calibration data that use it, or scope common"
        )


def calibrate_static(
    model: Network,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    *,
    bits: Bits,
    rule: Ranges,
    factors: Mapping[str, Tensor] | None = None,
) -> None:
    """Give each site an activation quantizer with one static range, which `rule` computes from all inputs of the site.

    All sites are observed before the first quantizer is inserted. So the ranges are those of full-precision
    activations. `factors` maps the name of an operand to the factor of each of its channels (heads · width). The
    operand is multiplied by the factor before it is quantized, and divided by it after.
    """
    quantizers: dict[Site, StaticActivation] = {}
    for site, x in collect_inputs(model, sites, batches):
        factor = (factors or {}).get(site.name)
        if factor is not None:
            factor = factor.reshape(-1, 1, x.shape[-1])
            x = x * factor
        scale, zero_point = rule(x.reshape(1, -1), bits_of(bits, site))
        if factor is None:
            quantizers[site] = StaticActivation(bits=bits_of(bits, site), scale=scale, zero_point=zero_point)
        else:
            quantizers[site] = FactoredActivation(
                bits=bits_of(bits, site), scale=scale, zero_point=zero_point, factor=factor
            )
        del x  # before the next block is computed
    for site, quantizer in quantizers.items():
        quantize_site(model, site, activation=quantizer)


def calibrate_static_minmax(
    model: Network, sites: Sequence[Site], batches: Iterable[Batch], *, bits: int, group_sizes: GroupSizes
) -> None:
    """Give each site static ranges, per tensor or per group: a moving average of the minima and maxima of the batches.

    The average has the factor 0.9. It gives scale and zero point as in `minmax`.
    """
    ranges = RunningRanges(momentum=0.9)

    def look(site: Site, x: Tensor) -> None:
        low, high = group_extremes(group(x, group_sizes[site.name]))
        ranges.update(site.name, low.flatten(0, -2).amin(dim=0), high.flatten(0, -2).amax(dim=0))

    observe_batches(model, sites, batches, look)
    for site in sites:
        require_seen(site, ranges.ranges)
        scale, zero_point = minmax_asymmetric(*ranges.ranges[site.name], bits)
        quantize_site(model, site, activation=StaticActivation(bits=bits, scale=scale, zero_point=zero_point))


def calibrate_static_running(model: Network, sites: Sequence[Site], batches: Iterable[Batch], *, bits: Bits) -> None:
    """Give each site a static range: moving average (0.95) of the batches' min and max, extended to zero (TFMQ-DM)."""
    ranges = RunningRanges(momentum=0.95)
    observe_batches(model, sites, batches, lambda site, x: ranges.update(site.name, *x.aminmax()))
    for site in sites:
        require_seen(site, ranges.ranges)
        site_bits = bits_of(bits, site)
        scale, zero_point = running_parameters(*ranges.ranges[site.name], site_bits)
        quantize_site(model, site, activation=StaticActivation(bits=site_bits, scale=scale, zero_point=zero_point))


def calibrate_static_threshold(
    model: Network, sites: Sequence[Site], batches: Iterable[Batch], *, bits: Bits, two_dimensional: bool = False
) -> None:
    """Give each site a static range: the mean of PTQ4DM's threshold search (S4) over batches, with factor 0.9 (S5).

    The mean is a moving average. The first batch decides whether a tensor has values of one sign only, as in the
    released code. With `two_dimensional` the search is `threshold_range_2d`.
    """
    find = threshold_range_2d if two_dimensional else threshold_range
    ranges = RunningRanges(momentum=0.9)
    sides: dict[str, Side] = {}

    def look(site: Site, x: Tensor) -> None:
        side = sides.setdefault(site.name, side_of(x))
        low, high = find(x.reshape(1, -1), bits_of(bits, site), side=side)
        ranges.update(site.name, low, high)

    observe_batches(model, sites, batches, look)
    for site in sites:
        require_seen(site, ranges.ranges)
        site_bits = bits_of(bits, site)
        scale, zero_point = threshold_parameters(*ranges.ranges[site.name], site_bits)
        quantize_site(model, site, activation=StaticActivation(bits=site_bits, scale=scale, zero_point=zero_point))


def blocks_of(sites: Sequence[Site]) -> list[list[Site]]:
    """Group the sites by block, in the order of the blocks; the sites outside the blocks are the first group."""
    order: dict[int, list[Site]] = {}
    for site in sites:
        order.setdefault(-1 if site.block is None else site.block, []).append(site)
    return [order[index] for index in sorted(order)]
