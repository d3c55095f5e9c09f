"""DiTAS: factors smooth the inputs of all timesteps, and a low-rank branch approximates the rounding error.

Numbered details (Dong and Zhang, WACV 2025; "program" is DZY122/DiTAS, commit 665c7eb):
1. Temporal-aggregated smoothing: each input channel j is divided by λ_j = max|X_j|^α / max|W_j|^(1 − α). The maximum
   max|X_j| is taken over all timesteps, samples and tokens. Linears with the same input share λ.
2. The α of a layer is the one of 0, 0.05 … 1 with the smallest squared error of the layer's output. The program
   measures this error at all steps. Here it is measured on at most 64 samples, drawn at random. The option `alpha` sets
   the same value for all layers.
3. λ is folded into adaLN rows (for qkv and fc1) and into V rows (for the attention output). The input of fc2 is divided
   by λ in every forward pass, as in the program. The program divides V's rows after they are rounded; here they are
   divided before.
4. Two computations alternate, `turns` (10) times each: Ŵ ← Q(W − L) rounds the weight to nearest, and L ← the best
   approximation of W − Ŵ by rank `rank` (32). The program takes the W before smoothing: one of its ranges covers one
   input channel only, so λ does not change the codes. Here W · diag(λ) is taken, because one range covers channels with
   different λ. max|W_j| in 1 is that of W; the program takes that of Ŵ.
5. A weight has one range for each output channel, or for each group of its inputs. In the program, 32 output channels
   share one range for each input channel. No kernel here can compute with such ranges.
6. Inputs have dynamic ranges, one for each sample. The program has one range for the whole batch, so that the result of
   a sample depends on the rest of its batch. `sharing` "token" gives each token a range, as in the other methods with
   dynamic ranges.
7. The branch multiplies the inputs before they are rounded. In the program it multiplies the rounded inputs.
8. While α is searched, the two computations of 4 are done once. The program searches with the final weight.
9. Both scopes (`common` and `own`) are the four linears of each block, as in the program.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from qdit.core.errors import naming
from qdit.core.options import CheckedOptions, Count, GroupSize, Probability
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, matrix_of, select
from qdit.quant.alternating import compensated
from qdit.quant.apply import collect_inputs, fitted_log, insert_dynamic, site_group_sizes
from qdit.quant.folding import divide_inputs, joint_weight, leaders
from qdit.quant.observe import Batch
from qdit.quant.sites import quantize_site
from qdit.quant.smoothing import best_factor, complementary, largest, some_rows
from qdit.quant.trial import Trial
from qdit.sampling.calibration import CalibrationSet

BATCH = 32
STEPS = 20
"""Steps of α from 0 to 1."""
SEARCH_SAMPLES = 64
"""Samples, drawn at random, on which α is chosen."""


@dataclass(frozen=True)
class DitasOptions(CheckedOptions):
    """Options of DiTAS.

    `group_size` None means one range per output channel (weights), and one per sample or token (inputs). `alpha` None
    searches α for each layer. `smooth` false leaves the inputs as they are. `turns` is how often codes and branch are
    computed alternately.
    """

    rank: Count = 32
    turns: Count = 10
    group_size: GroupSize | None = None
    sharing: Literal["sample", "token"] = "sample"
    smooth: bool = True
    alpha: Probability | None = None


class Ditas(Method):
    """Divides input channels by smoothing factors, and adds a low-rank branch for the rounding error to each linear."""

    name = "ditas"
    printed = "DiTAS"
    citation = """@inproceedings{dong2025ditas,
  title = {{DiTAS}: Quantizing Diffusion Transformers via Enhanced Activation Smoothing},
  author = {Dong, Zhenyuan and Zhang, Sai Qian},
  booktitle = {WACV},
  year = {2025}
}"""
    calibration = ("per-step",)
    calibration_unused = (("per-step", "smooth", False),)
    Options = DitasOptions
    stores_more_than_codes = True
    color = "#c71585"
    marker = "8"
    memory_mb = 48_000
    minutes = 180

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: DitasOptions,
    ) -> Quantized:
        """Find the smoothing factors on full-precision inputs.

        Then compute codes and low-rank branches, and quantize the inputs.
        """
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        trials = {site: Trial(weight_bits, activation_bits, sizes[site.name], options.sharing) for site in sites}
        if options.smooth and min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            data = list(calibration["per-step"].batches(BATCH))
            divide_inputs(model, smoothing_factors(model, trials, data, options))
        for site in sites if weight_bits < FULL_PRECISION_BITS else []:
            weight, rounding = matrix_of(model, site), trials[site].rounded
            with naming(site.name):
                stored, branch = compensated(weight, options.rank, rounding, turns=options.turns)
            quantize_site(model, site, weight=stored, low_rank=branch)
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes, sharing=options.sharing)
        return Quantized(model, log=fitted_log(sizes, options.group_size))


def smoothing_factors(
    model: Network, trials: Mapping[Site, Trial], data: Iterable[Batch], options: DitasOptions
) -> dict[Site, Tensor]:
    """Smoothing factor (in,) of each input. Its key is the first site, in the model's order, that has this input."""
    grid = complementary(STEPS, ends=True) if options.alpha is None else [(options.alpha, 1 - options.alpha)]
    factors = {}
    for site, inputs in collect_inputs(model, leaders(model, trials), data):
        output, weight = partial(compensated_output, layer=trials[site], rank=options.rank), joint_weight(model, site)
        samples, salience = some_rows(inputs, SEARCH_SAMPLES), largest(inputs)
        with naming(site.name):
            factors[site] = best_factor(samples, weight, output, grid=grid, of_inputs=salience)[0]
        del inputs  # before the next block is computed
    return factors


def compensated_output(inputs: Tensor, weight: Tensor, *, layer: Trial, rank: int) -> Tensor:
    """Output (…, out) of a quantized linear whose low-rank branch approximates the rounding error of its weight.

    It is computed for one trial of the smoothing factors. `inputs` and `weight` are already smoothed.
    """
    if layer.weight_bits == FULL_PRECISION_BITS:
        return layer.output(inputs, weight)
    stored, branch = compensated(weight, rank, layer.rounded, turns=1)
    return layer.output(inputs, stored.dequantize(), branch)
