"""Folding: the layers around a site absorb a channel factor and an offset of its input.

After `fold(model, site, factor, offset)` the input of the site is x / factor − offset, and the model computes the same
function. RepQ-ViT uses both. PTQ4DiT and SmoothQuant use the factor with offset 0. If one linear gives the modulation
of all blocks, the LayerNorm of the block itself absorbs factor and offset. In transformers of diffusers the modulation
is no module; there the layers behind it divide their input themselves. A norm without a bias absorbs the factor alone;
then the layers behind it subtract the offset.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError, Unsupported
from qdit.core.run import FULL_PRECISION_BITS
from qdit.models.dit import ModulatedLayerNorm
from qdit.models.network import Network
from qdit.models.roles import (
    FoldSource,
    ModulationRows,
    NormWeights,
    OwnInput,
    SharedModulation,
    Site,
    ValueRows,
    linear_of,
    matrix_of,
    replace,
)
from qdit.quant.sites import FoldedLayerNorm, QuantizedLinear, transform_site
from qdit.quant.transforms import Divide, Shift


def sharing(model: Network, site: Site) -> list[Site]:
    """Return the sites that have the same input as `site`, and `site` itself: those with the same fold source.

    Our own networks have one linear for each input. Queries, keys and values of diffusers are linears of their own.
    """
    if site.fold_source is None:
        return [site]
    return [other for other in model.sites() if other.fold_source == site.fold_source]


def leaders(model: Network, sites: Iterable[Site]) -> list[Site]:
    """Return only the first site of each input: sites with the same input as an earlier site are left out."""
    known: set[Site] = set()
    result: list[Site] = []
    for site in sites:
        if site not in known:
            result.append(site)
            known.update(sharing(model, site))
    return result


def joint_weight(model: Network, site: Site) -> Tensor:
    """Stack the weights of all linears that have the same input as `site`: (outputs of all, in)."""
    return torch.cat([matrix_of(model, other) for other in sharing(model, site)])


def fold(model: Network, site: Site, factor: Tensor, offset: Tensor | None = None) -> None:
    """Change the input x of a linear site to x / factor − offset, in place; factor and offset are (in,).

    The model computes the same function. All linears with the same input are changed together (`sharing`). Raises
    Unsupported if no layer can absorb the factor (`fold_source` is None).
    """
    if site.fold_source is None:
        raise Unsupported(f"{site.name}: nothing before a {site.role} can absorb a per-channel factor")
    offset = torch.zeros_like(factor) if offset is None else offset
    source, sites = site.fold_source, sharing(model, site)
    if isinstance(source, OwnInput):
        for other in sites:
            transform_site(model, other, [Divide(factor), Shift(offset)] if offset.any() else [Divide(factor)])
        return
    require_whole(model, *(other.name for other in sites))
    if changed := changed_linear(source):
        require_whole(model, changed, rows=True)
    if isinstance(source, NormWeights) and offset.any() and model.get_submodule(source.norm).bias is None:
        fold(model, site, factor)
        for other in sites:
            transform_site(model, other, Shift(offset))
        return
    with torch.no_grad():
        absorb(model, source, factor, offset)
        for other in sites:
            linear = linear_of(model, other)
            linear.weight.mul_(factor)
            if linear.bias is not None or offset.any():
                add_to_bias(linear, linear.weight @ offset)


def changed_linear(source: FoldSource) -> str | None:
    """Return the path of the linear whose output rows a fold changes; None if the fold changes no linear."""
    match source:
        case ModulationRows(linear) | ValueRows(linear):
            return linear
        case NormWeights(shift=shift):
            return shift
    return None


def add_to_bias(linear: nn.Linear, values: Tensor) -> None:
    """Add values (out,) to the bias of a linear. A linear without a bias gets one."""
    if linear.bias is None:
        linear.bias = nn.Parameter(values, requires_grad=linear.weight.requires_grad)
    else:
        linear.bias.add_(values)


def absorb(model: Network, source: FoldSource, factor: Tensor, offset: Tensor) -> None:
    """Change a layer in place so that its output, the input x of a site, becomes x / factor − offset."""
    match source:
        case SharedModulation(modulate):
            fold_into_norm(model, modulate, factor, offset)
        case NormWeights(norm, shift):
            fold_into_norm_weights(cast(nn.LayerNorm, model.get_submodule(norm)), factor, offset)
            if shift is not None:
                divide_rows(linear_of(model, shift), slice(None), factor)
        case ModulationRows(linear):
            for rows in (source, *source.others):
                fold_into_modulation(linear_of(model, linear), rows, factor, offset)
        case ValueRows(linear):
            fold_into_values(linear_of(model, linear), source, factor, offset)


def divide_input(model: Network, site: Site, factor: Tensor, offset: Tensor | None = None) -> None:
    """Change what a linear site quantizes to x / factor − offset, in place; the model computes the same function.

    If a layer before the site can absorb the factor, it is folded into that layer. Otherwise (fc2) an input transform
    divides in every forward pass.
    """
    if site.fold_source is not None:
        fold(model, site, factor, offset)
        return
    transform_site(model, site, [Divide(factor)] if offset is None else [Divide(factor), Shift(offset)])


def divide_inputs(model: Network, factors: Mapping[Site, Tensor]) -> None:
    """Call `divide_input` for several sites with their factors (in,), in place.

    Sites that can be folded come first: a layer whose rows absorb a factor must not have a transform yet
    (cross-attention). Raises ConfigError for two sites with the same input, which would be divided twice; pass only the
    `leaders`.
    """
    if twice := set(factors) - set(leaders(model, factors)):
        name = min(site.name for site in twice)
        raise ConfigError(f"{name}: another layer with the same input has a factor too; give one for each input")
    for site in sorted(factors, key=lambda site: site.fold_source is None):
        divide_input(model, site, factors[site])


def require_whole(model: nn.Module, *names: str, rows: bool = False) -> None:
    """Raise ConfigError if the weight of a layer is quantized, or if an input transform or a branch has changed it.

    With `rows` only rows of the weight will change, which are outputs. Then a transform of the input is allowed.
    """
    for name in names:
        module = model.get_submodule(name)
        if not isinstance(module, QuantizedLinear):
            continue
        is_divided = module.transform is not None and not rows
        if module.weight_bits < FULL_PRECISION_BITS or is_divided or module.low_rank is not None:
            raise ConfigError(f"{name}: its weight is quantized, transformed or divided already; fold before that")


def fold_into_modulation(linear: nn.Linear, rows: ModulationRows, factor: Tensor, offset: Tensor) -> None:
    """Fold into rows of an adaLN linear: 1 + scale → (1 + scale) / factor, and shift → shift / factor − offset."""
    scale, shift = slice(*rows.scale), slice(*rows.shift)
    linear.weight[scale] /= factor[:, None]
    linear.bias[scale] = (1 + linear.bias[scale]) / factor - 1
    linear.weight[shift] /= factor[:, None]
    linear.bias[shift] = linear.bias[shift] / factor - offset


def fold_into_norm(model: nn.Module, name: str, factor: Tensor, offset: Tensor) -> None:
    """Divide the output of a modulated LayerNorm by a factor and subtract an offset.

    Factors and offsets of earlier folds stay included.
    """
    old = cast(ModulatedLayerNorm, model.get_submodule(name))
    inverse, before = 1 / factor, torch.zeros_like(offset)
    if isinstance(old, FoldedLayerNorm):
        inverse, before = old.inverse / factor, old.offset / factor
    replace(model, name, FoldedLayerNorm(inverse=inverse, offset=before + offset))


def fold_into_norm_weights(norm: nn.LayerNorm, factor: Tensor, offset: Tensor) -> None:
    """Fold into a LayerNorm: weight → weight / factor, bias → bias / factor − offset. Without a bias, no offset."""
    norm.weight.div_(factor)
    if norm.bias is not None:
        norm.bias.copy_(norm.bias / factor - offset)


def fold_into_values(linear: nn.Linear, rows: ValueRows, factor: Tensor, offset: Tensor) -> None:
    """Fold into the rows of V: V → V / factor − offset. This is exact, because each row of the softmax sums to one.

    If V has a linear of its own without a bias, an offset adds a bias to it.
    """
    values = slice(*rows.rows)
    divide_rows(linear, values, factor)
    if linear.bias is not None:
        linear.bias[values] -= offset
    elif offset.any():
        add_to_bias(linear, -offset)


def divide_rows(linear: nn.Linear, rows: slice, factor: Tensor) -> None:
    """Divide each output in `rows` of a linear (weight row and bias) by its factor."""
    linear.weight[rows] /= factor[:, None]
    if linear.bias is not None:
        linear.bias[rows] /= factor


def mix_values(model: nn.Module, site: Site, mixing: Tensor) -> None:
    """Mix V within every head by the matrices `mixing`, in place. The output projection gets the inverse matrices.

    `site` is the attention output, `mixing` is (heads, head_dim, head_dim). The model still computes the same function.
    No folding of channel factors can undo the mixing, because the matrices are not diagonal.
    """
    if not isinstance(site.fold_source, ValueRows):
        raise Unsupported(f"{site.name}: only the attention output's input can be mixed through V")
    require_whole(model, site.name, site.fold_source.linear)
    qkv, projection = linear_of(model, site.fold_source.linear), linear_of(model, site)
    values = slice(*site.fold_source.rows)
    heads, width, _ = mixing.shape
    with torch.no_grad():
        weight = qkv.weight[values].view(heads, width, -1)
        qkv.weight[values] = (mixing @ weight).reshape(heads * width, -1)
        qkv.bias[values] = (mixing @ qkv.bias[values].view(heads, width, 1)).reshape(-1)
        columns = projection.weight.view(-1, heads, width).transpose(0, 1)
        mixed = columns @ torch.linalg.inv(mixing.double()).float()
        projection.weight.copy_(mixed.transpose(0, 1).reshape(projection.weight.shape))
