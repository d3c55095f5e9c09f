"""SVDQuant: smoothing moves outliers into the weight. A low-rank branch in 16 bits holds them; the rest has 4 bits.

Numbered details (Li et al., ICLR 2025; settings of the program DeepCompressor, configs/svdquant):
1. Smoothing: input channel j is divided by λ_j = max|X_j|^α / max|W_j|^(1 − α). For each layer 0.1, 0.2 … 0.9 and no
   smoothing are tried. The α with the smallest squared error of the layer's output is taken. The output is computed
   with the branch and with round to nearest, on calibration data. The program tries 20 values, without the branch.
2. λ is folded into adaLN or V rows where that is possible, and computed online before fc2.
3. The branch holds the `rank` largest singular values of the smoothed weight (32 by default). Its factors are float16.
   The residual is computed from the rounded factors. The program then fits the branch again to the rounding error of
   the residual, up to 100 times. This suite does not.
4. GPTQ rounds the residual; its Hessians come from quantized inputs. `rounding="nearest"` rounds to nearest instead.
5. Weights and inputs are quantized in groups of 64. Each token and group of an input has a dynamic range. Ranges are
   asymmetric, as for all methods here. The program uses signed codes; it shifts some inputs to be positive and gives
   them unsigned codes.
6. With 16 weight bits there is no residual, so there is no branch.
7. Both scopes are the four linears of each block.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from qdit.core.options import CheckedOptions, Count, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.activation import DynamicActivation
from qdit.quant.apply import (
    collect_inputs,
    fitted_log,
    gptq_weights,
    granularity,
    insert_dynamic,
    round_weights,
    site_group_sizes,
)
from qdit.quant.folding import divide_inputs
from qdit.quant.low_rank import low_rank
from qdit.quant.ranges import zero_minmax
from qdit.quant.sites import split_low_rank
from qdit.quant.smoothing import best_factor
from qdit.quant.weight import quantize_weight
from qdit.sampling.calibration import CalibrationSet

BATCH = 32
SEARCH_ROWS = 1024
"""Input rows, drawn at random, on which α is chosen."""


@dataclass(frozen=True)
class SvdQuantOptions(CheckedOptions):
    """`group_size` None means one range per output channel (weights) and per token (inputs)."""

    rank: Count = 32
    group_size: GroupSize | None = 64
    smooth: bool = True
    rounding: Literal["gptq", "nearest"] = "gptq"


class SvdQuant(Method):
    """Absorbing outliers by low-rank components."""

    name = "svdquant"
    printed = "SVDQuant"
    citation = """@inproceedings{li2025svdquant,
  title = {{SVDQuant}: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models},
  author = {Li, Muyang and Lin, Yujun and Zhang, Zhekai and Cai, Tianle and Li, Xiuyu and Guo, Junxian and Xie, Enze and
            Meng, Chenlin and Zhu, Jun-Yan and Han, Song},
  booktitle = {ICLR},
  year = {2025}
}"""
    calibration = ("trajectory",)
    Options = SvdQuantOptions
    stores_more_than_codes = True
    color = "#006d5b"
    marker = "H"
    memory_mb = 48_000
    minutes = 120

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: SvdQuantOptions,
    ) -> Quantized:
        """Smooth on full-precision inputs, split off the branch, then quantize inputs and residual."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        data = list(calibration["trajectory"].batches(BATCH))
        if options.smooth and min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            output = partial(layer_output, weight_bits=weight_bits, activation_bits=activation_bits, rank=options.rank)
            factors = {}
            for site, inputs in collect_inputs(model, sites, data):
                of_layer = partial(output, group_size=sizes[site.name])
                weight = linear_of(model, site).weight.detach()
                factors[site] = best_factor(inputs, weight, of_layer, rows=SEARCH_ROWS)[0]
            divide_inputs(model, factors)
        if weight_bits < FULL_PRECISION_BITS:
            for site in sites:
                split_low_rank(model, site, options.rank)
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        log: dict[str, Any] = fitted_log(sizes, options.group_size)
        if weight_bits < FULL_PRECISION_BITS and options.rounding == "nearest":
            round_weights(model, sites, bits=weight_bits, rule=zero_minmax, group_sizes=sizes)
        elif weight_bits < FULL_PRECISION_BITS:
            log |= gptq_weights(model, sites, data, bits=weight_bits, group_sizes=sizes)
        return Quantized(model, log=log)


def layer_output(
    inputs: Tensor, weight: Tensor, *, weight_bits: int, activation_bits: int, rank: int, group_size: int | None
) -> Tensor:
    """Output (rows, out) of a quantized linear with its branch; the residual is rounded to nearest."""
    quantized_inputs, output = inputs, 0.0
    if activation_bits < FULL_PRECISION_BITS:
        quantized_inputs = DynamicActivation(bits=activation_bits, group_size=group_size)(inputs)
    if weight_bits < FULL_PRECISION_BITS:
        branch = low_rank(weight, rank)
        output, shared = branch(inputs), granularity(group_size)
        residual = weight - branch.product()
        weight = quantize_weight(residual, bits=weight_bits, granularity=shared, ranges=zero_minmax).dequantize()
    return quantized_inputs @ weight.t() + output
