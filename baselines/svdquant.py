"""SVDQuant: smoothing moves outliers into the weight; a low-rank branch in 16 bits takes them; 4 bits hold the rest.

Numbered details (Li et al., ICLR 2025; settings of the program DeepCompressor, configs/svdquant):
1. Smoothing: λ_j = max|X_j|^α / max|W_j|^(1 − α). α is chosen for each layer: the least squared error of the layer's
   output after the branch and round-to-nearest, on calibration data. The grid is 0.1, 0.2 … 0.9 and no smoothing. The
   program has 20 steps, and its search leaves the branch out.
2. λ is folded into adaLN or V rows where that is possible, and computed online before fc2.
3. The branch has the `rank` largest singular values of the smoothed weight (rank 32), its factors are float16. The
   residual is computed from the rounded factors. The program then refines the branch against the rounded residual, in
   up to 100 iterations; this is not built here.
4. The residual is rounded by GPTQ, whose Hessians come from quantized inputs. `rounding="nearest"` is the plain form.
5. Weights and inputs are quantized in groups of 64. Inputs are dynamic, per token and group. Ranges are asymmetric, as
   for all methods here. The program's are signed; inputs that are shifted to be positive are unsigned.
6. The branch needs weights that are quantized: with 16 weight bits there is none.
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
