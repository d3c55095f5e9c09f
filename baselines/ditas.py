"""DiTAS: smoothing factors of all timesteps, a search of their strength, and a low-rank branch for the rounding error.

Numbered details (Dong and Zhang, WACV 2025; "program" is DZY122/DiTAS, commit 665c7eb):
1. Temporal-aggregated smoothing: λ_j = max|X_j|^α / max|W_j|^(1 − α), the largest |x| over all timesteps, samples and
   tokens. Linears with the same input share λ.
2. α is chosen for each layer on 0, 0.05 … 1 by the squared error of the layer's output. The program looks at all steps;
   here at most 64 samples, drawn at random, are looked at. `alpha` takes one value for all layers.
3. λ is folded into adaLN rows (qkv, fc1) and V rows (attention output), and computed online before fc2, as in the
   program. The program divides V's rows after they are rounded.
4. Weights: Ŵ ← Q(W − L), L ← best branch of W − Ŵ, alternately (`turns` 10, `rank` 32), rounded to nearest. The program
   does so before smoothing: its ranges lie within an input channel, so λ does not change its codes. Here W · diag(λ) is
   taken, since a range covers inputs of different λ. max|W_j| is that of W; the program has that of Ŵ.
5. Ranges of weights: per output channel, or groups of inputs. In the program 32 outputs share one for each input
   channel (outputs a 32nd part of the layer apart), which no kernel here can hold.
6. Inputs: dynamic, one range for each sample. The program has one for the whole batch, so a sample would depend on its
   neighbours. `sharing` "token" is the form of the other methods here.
7. The branch gets the inputs before their rounding. In the program it gets the rounded ones.
8. While α is searched the weight has one turn. Its program searches with the final weight.
9. Both scopes are the four linears of each block, as in the program.
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
    """`group_size` None means one range per output channel (weights), and one per sample or token (inputs).

    `alpha` None searches α for each layer. `smooth` false leaves the inputs as they are.
    """

    rank: Count = 32
    turns: Count = 10
    group_size: GroupSize | None = None
    sharing: Literal["sample", "token"] = "sample"
    smooth: bool = True
    alpha: Probability | None = None


class Ditas(Method):
    """Quantizing diffusion transformers via enhanced activation smoothing."""

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
        """Smooth on full-precision inputs, then compute codes and branches alternately, and quantize the inputs."""
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
    """The factor of each input, by its first site."""
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
    """Output (…, out) of a linear whose branch approximates its rounding error. The smoothing factors are on trial."""
    if layer.weight_bits == FULL_PRECISION_BITS:
        return layer.output(inputs, weight)
    stored, branch = compensated(weight, rank, layer.rounded, turns=1)
    return layer.output(inputs, stored.dequantize(), branch)
