"""SVDQuant: smoothing moves outliers into the weight. A low-rank branch in 16 bits holds them; the rest has 4 bits.

Numbered details (Li et al., ICLR 2025; settings of the program DeepCompressor, configs/svdquant):
1. Smoothing divides input channel j by λ_j = max|X_j|^α / max|W_j|^β. Each layer takes the α and β with the least
   squared error of its output on calibration data, with the branch and with round-to-nearest. The candidates are those
   of the program: no smoothing, and α = 0.05, 0.1 … 0.95 with β = 0 and with β = 1 − α (`grid` 20). Linears with the
   same input are searched together.
2. λ is folded into adaLN or V rows where that is possible. The input of fc2 is divided in every forward pass. The
   program's configuration divides every input in the forward pass; the function is the same.
3. The branch begins with the `rank` largest singular values of the smoothed weight (rank 32). Then it is refined, as in
   the program: L ← best branch of W − Ŵ and Ŵ ← Q(W − L) are repeated until the error of the layer's output grows, at
   most `turns` (100) times. With `turns` 1 there is no refinement, as in the paper's equations. The two matrices of L
   are float16, and Ŵ is computed from these rounded matrices.
4. The residual W − L is rounded by GPTQ, whose Hessians come from quantized inputs. `rounding="nearest"` rounds it to
   nearest.
5. Weights and inputs are quantized in groups of 64. Inputs are dynamic, per token and group. Ranges are asymmetric, as
   for all methods here. The program has symmetric ranges, except for inputs that it shifts to be positive.
6. With 16 weight bits there is no branch, because nothing is rounded.
7. Both scopes are the four linears of each block.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from qdit.core.errors import naming
from qdit.core.options import CheckedOptions, Count, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, matrix_of, select
from qdit.quant.alternating import refined
from qdit.quant.apply import (
    collect_inputs,
    fitted_log,
    gptq_weights,
    insert_dynamic,
    round_weights,
    site_group_sizes,
)
from qdit.quant.folding import divide_inputs, joint_weight, leaders
from qdit.quant.low_rank import low_rank
from qdit.quant.ranges import zero_minmax
from qdit.quant.sites import quantize_site
from qdit.quant.smoothing import best_factor, complementary, inputs_only, largest, some_rows
from qdit.quant.trial import Trial
from qdit.sampling.calibration import CalibrationSet

BATCH = 32
SEARCH_ROWS = 1024
"""Input rows, drawn at random, on which α is chosen."""


@dataclass(frozen=True)
class SvdQuantOptions(CheckedOptions):
    """Options of SVDQuant. `group_size` None means one range per output channel (weights) and per token (inputs).

    `grid` is the number of steps of α from 0 to 1. `turns` is the largest number of low-rank branches that are tried.
    """

    rank: Count = 32
    turns: Count = 100
    group_size: GroupSize | None = 64
    smooth: bool = True
    grid: Count = 20
    rounding: Literal["gptq", "nearest"] = "gptq"


class SvdQuant(Method):
    """Smooths the inputs, and keeps the largest part of each weight in a low-rank branch of 16 bits."""

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
        """Smooth on full-precision inputs and split off the low-rank branch.

        Then quantize inputs and remaining weights.
        """
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        data = list(calibration["trajectory"].batches(BATCH))
        trials = {site: Trial(weight_bits, activation_bits, sizes[site.name]) for site in sites}
        if options.smooth and min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            grid = [None, *inputs_only(options.grid), *complementary(options.grid)]
            factors = {}
            for site, inputs in collect_inputs(model, leaders(model, sites), data):
                output, salience = partial(with_branch, layer=trials[site], rank=options.rank), largest(inputs)
                rows, weight = some_rows(inputs.flatten(0, -2), SEARCH_ROWS), joint_weight(model, site)
                with naming(site.name):
                    factors[site] = best_factor(rows, weight, output, grid=grid, of_inputs=salience)[0]
                del inputs  # before the next block is computed
            divide_inputs(model, factors)
        if weight_bits < FULL_PRECISION_BITS:
            branches = {}
            for site, inputs in collect_inputs(model, sites, data):
                rows, weight = some_rows(inputs.flatten(0, -2), SEARCH_ROWS), matrix_of(model, site)
                error = partial(trials[site].error, rows, weight)
                with naming(site.name):
                    branches[site] = refined(weight, options.rank, trials[site].rounded, error, turns=options.turns)
                del inputs  # before the next block is computed
            for site, branch in branches.items():
                quantize_site(model, site, low_rank=branch)
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        log: dict[str, Any] = fitted_log(sizes, options.group_size)
        if weight_bits < FULL_PRECISION_BITS and options.rounding == "nearest":
            round_weights(model, sites, bits=weight_bits, rule=zero_minmax, group_sizes=sizes)
        elif weight_bits < FULL_PRECISION_BITS:
            log |= gptq_weights(model, sites, data, bits=weight_bits, group_sizes=sizes)
        return Quantized(model, log=log)


def with_branch(inputs: Tensor, weight: Tensor, *, layer: Trial, rank: int) -> Tensor:
    """Output (rows, out) of a linear with a low-rank branch, whose remaining weight is rounded to nearest.

    It is computed for one trial of the smoothing factors. `inputs` and `weight` are already smoothed.
    """
    if layer.weight_bits == FULL_PRECISION_BITS:
        return layer.output(inputs, weight)
    branch = low_rank(weight, rank)
    return layer.output(inputs, layer.rounded(weight - branch.product()).dequantize(), branch)
