"""RepQ-ViT: percentiles give the ranges. Inputs after a LayerNorm are calibrated per channel.

The channel factors of these inputs are folded into adaLN, so that one range per tensor is enough.

Numbered details (Li et al., ICCV 2023):
1. Weights: asymmetric, one range for each output channel. Of the quantiles 99.9, 99.99 and 99.999 % the range with the
   smallest squared error is taken.
2. Inputs after a LayerNorm (qkv, fc1): each channel is calibrated alone and gets a scale s. Then all channels get one
   range: channel j is divided by r = s / mean(s) and shifted by an offset. The 1 + scale and shift rows of DiT's adaLN
   absorb r and the offset. All other inputs have one range per tensor.
3. The scale of a channel is at least 1e-4 of the mean scale. Without this limit, a channel that hardly varies would get
   a huge factor.
4. Calibration: images of the full-precision model at uniformly drawn timesteps. The release for ViT uses 32 images.
5. The mean zero point is rounded to an integer before the offset is computed; the release keeps a fraction.
6. Scope `own` also quantizes the patch convolution (input with 8 bits), the final linear (with factors as in 2) and
   both matrix products of attention. Softmax outputs get the log √2 quantizer. Embedders and adaLN stay in full
   precision, because a ViT has no such layers.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.core.options import CheckedOptions
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, ValueRows, select
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import calibrate_static, collect_inputs, round_weights
from qdit.quant.folding import fold, leaders, sharing
from qdit.quant.layers import EDGE_ROLES, operands, with_roles
from qdit.quant.nonlinear import LogSqrt2Activation, log_sqrt2_search
from qdit.quant.ranges import percentile_search
from qdit.quant.sites import quantize_site
from qdit.sampling.calibration import CalibrationSet

BATCH = 32
CONVOLUTION_BITS = 8
SMALLEST_RATIO = 1e-4


@dataclass(frozen=True)
class RepqVitOptions(CheckedOptions):
    """Options of RepQ-ViT.

    `reparametrize=False` gives every input one range per tensor, without channel factors (ablation).
    """

    reparametrize: bool = True


class RepqVit(Method):
    """Calibrates inputs after a LayerNorm per channel, and folds the channel factors into adaLN."""

    name = "repq-vit"
    printed = "RepQ-ViT"
    citation = """@inproceedings{li2023repqvit,
  title = {{RepQ-ViT}: Scale Reparameterization for Post-Training Quantization of Vision Transformers},
  author = {Li, Zhikai and Xiao, Junrui and Yang, Lianwei and Gu, Qingyi},
  booktitle = {ICCV},
  year = {2023}
}"""
    calibration = ("uniform",)
    Options = RepqVitOptions
    common_weights_are_core = True
    color = "#56B4E9"  # sky
    marker = "^"
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
        options: RepqVitOptions,
    ) -> Quantized:
        """Fold the channel factors into the full-precision model and round its weights.

        Then compute the ranges of all other inputs.
        """
        model = deepcopy(model)
        roles = CORE_ROLES if scope == "common" else (*EDGE_ROLES, *CORE_ROLES)
        sites = select(model.sites(), roles=roles)
        batches = list(calibration["uniform"].batches(BATCH))
        modulated = [site for site in sites if not isinstance(site.fold_source, ValueRows | None)]
        if options.reparametrize and not modulated:
            raise Unsupported(
                f"repq-vit: no layer of this {model.config.family} network can absorb the channel factors of its inputs"
                " (no modulation rows); give reparametrize=false"
            )
        normed = modulated if options.reparametrize else []
        folded = {}
        if activation_bits < FULL_PRECISION_BITS:
            folded = reparametrize(model, normed, batches, bits=activation_bits)
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(model, sites, bits=weight_bits, rule=percentile_search)
        if activation_bits < FULL_PRECISION_BITS:
            rest = [site for site in sites if site not in folded]
            factors = operands(model) if scope == "own" else []
            probabilities = with_roles(factors, "p")
            logarithmic = {
                site: LogSqrt2Activation(bits=activation_bits, scale=log_sqrt2_search(x, activation_bits))
                for site, x in collect_inputs(model, probabilities, batches)
            }
            per_tensor = [*rest, *with_roles(factors, "q", "k", "v")]
            bits = {s.name: CONVOLUTION_BITS if s.role == "patch_embed" else activation_bits for s in per_tensor}
            calibrate_static(model, per_tensor, batches, bits=bits, rule=percentile_search)
            for site, quantizer in (folded | logarithmic).items():
                quantize_site(model, site, activation=quantizer)
        return Quantized(model)


def reparametrize(
    model: Network, sites: Sequence[Site], batches: Sequence[tuple[Tensor, ...]], *, bits: int
) -> dict[Site, StaticActivation]:
    """Calibrate each channel of the sites' inputs, and fold factors and offsets into the modulation before them.

    The model is changed in place. Return the static quantizer of each site: one range for all channels.
    """
    quantizers, folded = {}, {}
    for site, x in collect_inputs(model, leaders(model, sites), batches):
        own_scale, own_zero = (
            ends[:, 0] for ends in percentile_search(x.reshape(-1, x.shape[-1]).t().contiguous(), bits)
        )
        scale = own_scale.clamp(min=SMALLEST_RATIO * float(own_scale.mean()))
        zero_point = own_zero * (own_scale / scale)  # a widened range still begins at the channel's smallest value
        common_scale, common_zero = scale.mean(), zero_point.mean().round()
        factor = scale / common_scale
        folded[site] = factor, common_zero * common_scale - zero_point * common_scale
        for other in sharing(model, site):
            quantizers[other] = StaticActivation(bits=bits, scale=common_scale, zero_point=common_zero)
        del x  # before the next block is computed
    for site, (factor, offset) in folded.items():
        fold(model, site, factor, offset)
    return quantizers
