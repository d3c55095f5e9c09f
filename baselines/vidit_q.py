"""ViDiT-Q: channel factors and a rotation reduce outliers. Each token of an input has one dynamic range.

Numbered details (Zhao et al., ICLR 2025; balance, weights and inputs as in thu-nics/ViDiT-Q,
t2i/configs/quant/sigma/w4a8.yaml, which has no rotation):
1. Channel balance: λ_j = s(X)_j^α / s(W)_j^(1 − α), with α 0.3 as in that file. s(X)_j is the largest |x_j| over the
   tokens of a sample, as the mean over the samples of a batch, and as a running mean (factor 0.95) over the calibration
   batches. s(W)_j is the largest |w| of column j. Linears with the same input share λ.
2. λ is folded into adaLN or V rows where that is possible. The input of fc2 is divided in every forward pass. The
   program divides all inputs in this way.
3. Rotation: each linear multiplies its input by random signs and a block Hadamard matrix in every forward pass, as in
   the method `rotation`.
4. Weights: min-max per output channel, rounded to nearest. Inputs: min-max per token, dynamic.
5. Mixed precision of weights is off by default. `mean_bits` switches it on: the layers whose rounding changes the
   output most get 8 bits. The paper measures with metrics of quality, text alignment and motion, and solves an integer
   program; here the measure is the squared change of the network's output, and layers are taken in the order of change
   per weight.
6. Both scopes are the four linears of each block (an STDiT3: seven).
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from qdit.core.options import CheckedOptions, CountOrNone, GroupSize, Probability
from qdit.core.seeds import Purpose, torch_generator
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, select
from qdit.quant.apply import (
    fitted_log,
    input_width,
    insert_dynamic,
    round_weights,
    site_group_sizes,
)
from qdit.quant.folding import divide_inputs, joint_weight, leaders
from qdit.quant.mixed_precision import mixed_bits
from qdit.quant.observe import Batch, observe_inputs
from qdit.quant.ranges import minmax
from qdit.quant.salience import weight_salience
from qdit.quant.sites import transform_site
from qdit.quant.smoothing import smoothing_factor
from qdit.quant.transforms import Hadamard, random_signs
from qdit.sampling.calibration import CalibrationSet

BATCH = 4
MOMENTUM = 0.95
MORE_BITS, SEARCH_BATCHES = 8, 16
"""Mixed precision: bits of the chosen layers, and the batches on which layers are compared."""


@dataclass(frozen=True)
class ViditQOptions(CheckedOptions):
    """Options of ViDiT-Q. `balance=False` and `rotate=False` each switch a part of the method off (ablations).

    With `group_size` None there is one range for each output channel of a weight and for each token of an input.
    `mean_bits` is the mean bits of all weights under mixed precision. If it is None, all layers have the same bits.
    """

    alpha: Probability = 0.3
    balance: bool = True
    rotate: bool = True
    group_size: GroupSize | None = None
    seed: CountOrNone = 0
    mean_bits: Annotated[float, Ge(2), Le(8)] | None = None


class ViditQ(Method):
    """Balances and rotates the channels. Each token of an input has one dynamic range."""

    name = "vidit-q"
    printed = "ViDiT-Q"
    citation = """@inproceedings{zhao2025viditq,
  title = {{ViDiT-Q}: Efficient and Accurate Quantization of Diffusion Transformers for Image and Video Generation},
  author = {Zhao, Tianchen and Fang, Tongcheng and Huang, Haofeng and Liu, Enshu and Wan, Rui and Soedarmadji, Widyadewi
            and Li, Shiyao and Lin, Zinan and Dai, Guohao and Yan, Shengen and Yang, Huazhong and Ning, Xuefei and
            Wang, Yu},
  booktitle = {ICLR},
  year = {2025}
}"""
    calibration = ("uniform",)
    Options = ViditQOptions
    stores_more_than_codes = True
    color = "#b5651d"
    marker = "X"
    line = "--"
    memory_mb = 24_000
    minutes = 60

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: ViditQOptions,
    ) -> Quantized:
        """Balance the channels, rotate inputs and weights, then quantize both."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        if min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            if options.balance:
                inputs = leaders(model, sites)
                of_inputs = running_maxima(model, inputs, calibration["uniform"].batches(BATCH))
                of_weight = {site: weight_salience(joint_weight(model, site)) for site in inputs}
                divide_inputs(
                    model,
                    {site: smoothing_factor(of_inputs[site.name], of_weight[site], options.alpha) for site in inputs},
                )
            generator = torch_generator(options.seed, Purpose.VARIANT)
            for site in sites if options.rotate else []:
                width = input_width(model, site)
                signs = random_signs(width, generator)
                transform_site(model, site, Hadamard(width, size=width & -width, signs=signs))
        log, bits = fitted_log(sizes, options.group_size), dict.fromkeys(sizes, weight_bits)
        if weight_bits < FULL_PRECISION_BITS and options.mean_bits is not None:
            batches = islice(calibration["uniform"].batches(BATCH), SEARCH_BATCHES)
            mean, high = options.mean_bits, MORE_BITS
            bits = mixed_bits(
                model, sites, batches, low=weight_bits, high=high, mean=mean, rule=minmax, group_sizes=sizes
            )
            log |= {"weight_bits": bits}
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(model, sites, bits=bits, rule=minmax, group_sizes=sizes)
        return Quantized(model, log=log)


def running_maxima(model: Network, sites: list[Site], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Site name → salience s(X) (in,) of its input channels, as a running mean over the calibration batches.

    For one batch it is the largest |x| over the tokens of a sample, as the mean over the samples.
    """
    maxima: dict[str, Tensor] = {}

    def look(site: Site, x: Tensor) -> None:
        current = x.reshape(len(x), -1, x.shape[-1]).abs().amax(dim=1).mean(dim=0)
        before = maxima.get(site.name)
        maxima[site.name] = current if before is None else torch.lerp(current, before, MOMENTUM)

    observe_inputs(model, sites, batches, look)
    return maxima
