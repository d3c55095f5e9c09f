"""ViDiT-Q: channel factors and a rotation reduce outliers. Each token of an input has one dynamic range.

Numbered details (Zhao et al., ICLR 2025; balance, weights and inputs as in thu-nics/ViDiT-Q,
t2i/configs/quant/sigma/w4a8.yaml, which has no rotation):
1. Channel balance: λ_j = s(X)_j^α / s(W)_j^(1 − α), with α 0.3 as in that file. s(X) is a running mean (factor 0.95)
   of the largest |x| of each channel in each calibration batch; s(W) is the largest |w| of a column.
2. λ is folded into adaLN or V rows where that is possible, and computed online before fc2.
3. Rotation: random signs and a block Hadamard transform, online before each linear, as in `rotation`.
4. Weights: min-max per output channel, rounded to nearest. Inputs: min-max per token, dynamic.
5. The other part of the paper gives layers different bits, chosen by a metric. This suite does not: all layers have
   equal bits.
6. Both scopes are the four linears of each block (an STDiT3: seven).
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from qdit.core.options import CheckedOptions, CountOrNone, GroupSize, Probability
from qdit.core.seeds import Purpose, torch_generator
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, linear_of, select
from qdit.quant.apply import fitted_log, input_width, insert_dynamic, round_weights, site_group_sizes
from qdit.quant.folding import divide_inputs
from qdit.quant.observe import Batch, observe_inputs
from qdit.quant.ranges import minmax
from qdit.quant.salience import weight_salience
from qdit.quant.sites import transform_site
from qdit.quant.smoothing import smoothing_factor
from qdit.quant.transforms import Hadamard, random_signs
from qdit.sampling.calibration import CalibrationSet

BATCH = 4
MOMENTUM = 0.95


@dataclass(frozen=True)
class ViditQOptions(CheckedOptions):
    """`balance=False` and `rotate=False` switch a part off (ablations).

    With `group_size` None there is one range for each output channel of a weight and for each token of an input.
    """

    alpha: Probability = 0.3
    balance: bool = True
    rotate: bool = True
    group_size: GroupSize | None = None
    seed: CountOrNone = 0


class ViditQ(Method):
    """Efficient and accurate quantization of diffusion transformers for image and video generation."""

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
    calibration_unused = (("uniform", "balance", False),)
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
        """Balance the channels, rotate, then round weights and inputs."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        if min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            if options.balance:
                largest = running_maxima(model, sites, calibration["uniform"].batches(BATCH))
                of_weight = {site: weight_salience(linear_of(model, site).weight.detach()) for site in sites}
                divide_inputs(
                    model,
                    {site: smoothing_factor(largest[site.name], of_weight[site], options.alpha) for site in sites},
                )
            generator = torch_generator(options.seed, Purpose.VARIANT)
            for site in sites if options.rotate else []:
                width = input_width(model, site)
                signs = random_signs(width, generator)
                transform_site(model, site, Hadamard(width, size=width & -width, signs=signs))
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(model, sites, bits=weight_bits, rule=minmax, group_sizes=sizes)
        return Quantized(model, log=fitted_log(sizes, options.group_size))


def running_maxima(model: Network, sites: list[Site], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Site name → running mean over batches of the largest |x| of each channel (in,)."""
    maxima: dict[str, Tensor] = {}

    def look(site: Site, x: Tensor) -> None:
        largest = x.reshape(-1, x.shape[-1]).abs().amax(dim=0)
        before = maxima.get(site.name)
        maxima[site.name] = largest if before is None else torch.lerp(largest, before, MOMENTUM)

    observe_inputs(model, sites, batches, look)
    return maxima
