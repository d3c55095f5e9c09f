"""PTQ4DiT: CSB and SSC balance the salience of activations and weights. Then AdaRound learns rounding and scales.

Numbered details (Wu et al., NeurIPS 2024):
1. CSB replaces x by x / k and W by W · diag(k), with k = √(s(X) / s(W)) per channel. s is the salience: the largest
   absolute value of a channel. CSB applies to qkv, the attention output and fc1, not to fc2. In an STDiT3 it also
   applies to the output of cross-attention, through its V.
2. SSC: s(X) is a mean over timesteps. The weights of the mean are softmax(−Spearman's ρ of s(X_t) and s(W)). The
   release computes one s(X) per sample (`salience="sample"`). The paper's text has one per timestep. Without SSC, s(X)
   is the largest salience of all samples.
3. k is folded into W. 1 / k is folded exactly into the adaLN rows before qkv and fc1, and into the rows of V. The
   release divides in every forward pass, after attention has quantized V. So its quantizer gets the undivided V. Here
   the range is computed from k · (V / k), the same undivided V (`values="before"`). `values="folded"` computes the
   range of V / k. All k come from one full-precision pass.
4. Weights have one range per output channel, activations one per tensor. A percentile search finds both. The activation
   ranges come from a small calibration set, the *initial set*: 100 samples, four at each of 25 timesteps. A schedule
   with fewer steps has more samples at each step.
5. Each block is reconstructed: AdaRound (learning rate 1e-3) and activation scales (learning rate 4e-5, falling along a
   cosine) are learned together. Inputs are quantized, targets are full precision. The paper takes 20,000 iterations.
   The release divides the data into ten parts and learns on one part after the other. Here every batch is drawn from
   all data. Under scope `own`, layers outside the blocks are reconstructed too (option `outside`). The order is: patch
   embedding, the two linears of the timestep embedding one by one, the blocks, and the final layer as if it were a
   block.
6. Calibration: 64 samples at each of 25 evenly spaced steps (1,600 samples). Under guidance these are 32 images and
   their unconditional copies. A DiT for 512 pixels takes 128 samples at each of 10 steps (1,280), in batches of at most
   16. In the release the initial set has class 0 only; the option `first_classes` restores that. The paper draws
   classes at random.
7. The script of the release leaves the model in training mode, so labels are dropped while sampling. This suite never
   reproduces that.
8. Scope `own` quantizes every linear and convolution, all with the same bits, and q, k, v and the softmax output (8
   bits).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.core.options import CheckedOptions, Count, CountOrNone, Matmul, Outside, Positive
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.dit import DiT
from qdit.models.network import Network
from qdit.models.roles import Site, ValueRows
from qdit.quant.apply import calibrate_static, collect_inputs, round_weights
from qdit.quant.folding import fold, joint_weight, leaders
from qdit.quant.layers import layers, operands, site_bits, with_roles
from qdit.quant.ranges import percentile_search
from qdit.quant.reconstruction import reconstruct
from qdit.quant.salience import activation_salience, balance_factors, temporal_salience, weight_salience
from qdit.quant.unit_learning import Reconstruction
from qdit.quant.units import units_of
from qdit.sampling.calibration import CalibrationSet

STEPS, PER_STEP, INITIAL_PER_STEP = 25, 64, 4
LARGE_STEPS, LARGE_PER_STEP, LARGE_BATCH = 10, 128, 16
"""The same of a DiT for 512 pixels, and the batch of its reconstruction."""
LARGE_INPUT = 64
"""Side of the latents of 512 pixels."""
BATCH = 64
BALANCED = ("qkv", "attn_out", "cross_out", "fc1", "txt_qkv", "txt_fc1")
"""Linears whose input a factor can be folded into."""


@dataclass(frozen=True)
class Ptq4ditOptions(CheckedOptions):
    """Options of PTQ4DiT. `csb=False`, `ssc=False` and `iterations=0` each switch one part of the method off.

    `batch` and `rate` are batch size and learning rate of learned rounding. `matmul` is the number format of its matrix
    products on a GPU.

    `values` says whether the range of V is computed before or after the folding (detail 3; scope `own`). `outside` says
    which layers outside the blocks are reconstructed (scope `own`).
    """

    csb: bool = True
    ssc: bool = True
    salience: Literal["sample", "timestep"] = "sample"
    first_classes: bool = False
    values: Literal["before", "folded"] = "before"
    outside: Outside = "network-order"
    iterations: CountOrNone = 20_000
    batch: Count = 32
    rate: Positive = 1e-3
    matmul: Matmul = "float32"


class Ptq4dit(Method):
    """Balances the largest values of activation and weight channels. Then it learns rounding and activation scales."""

    name = "ptq4dit"
    printed = "PTQ4DiT"
    citation = """@inproceedings{wu2024ptq4dit,
  title = {{PTQ4DiT}: Post-training Quantization for Diffusion Transformers},
  author = {Wu, Junyi and Wang, Haoxuan and Shang, Yuzhang and Shah, Mubarak and Yan, Yan},
  booktitle = {NeurIPS},
  year = {2024}
}"""
    calibration = ("per-step",)
    Options = Ptq4ditOptions
    learns_rounding = True
    learned_rows = (1600, 1280)
    large_batch = 16
    common_weights_are_core = True
    color = "#CC79A7"  # purple
    marker = "v"
    line = "--"
    minutes = 1440

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: Ptq4ditOptions,
    ) -> Quantized:
        """Balance the salience, round the weights, compute static activation ranges, then reconstruct the blocks."""
        model = deepcopy(model)
        large = isinstance(model, DiT) and model.config.input_size >= LARGE_INPUT
        data, initial = chosen_samples(calibration["per-step"], options, large=large)
        weighted, factors = layers(model, scope), dict[str, Tensor]()
        if options.csb:
            balanced = [site for site in with_roles(weighted, *BALANCED) if site.fold_source]
            if not balanced:
                raise Unsupported(
                    f"ptq4dit: no layer of this {model.config.family} network can absorb the factors of CSB (no"
                    " modulation rows); give csb=false"
                )
            factors = balance(model, balanced, initial, options)
        reference = deepcopy(model)
        sites = weighted if scope == "common" else [*weighted, *operands(model)]
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(model, weighted, bits=weight_bits, rule=percentile_search)
        if activation_bits < FULL_PRECISION_BITS:
            bits = site_bits(sites, activation_bits)
            inputs = value_factors(sites, factors) if options.values == "before" else {}
            calibrate_static(model, sites, initial.batches(BATCH), bits=bits, rule=percentile_search, factors=inputs)
        if options.iterations == 0 or weight_bits == activation_bits == FULL_PRECISION_BITS:
            return Quantized(model)
        learn: Literal["both", "rounding", "scales"] = "both"
        if FULL_PRECISION_BITS in (weight_bits, activation_bits):
            learn = "scales" if weight_bits == FULL_PRECISION_BITS else "rounding"
        batch = min(options.batch, LARGE_BATCH) if large else options.batch
        config = Reconstruction(options.iterations, batch, rounding_rate=options.rate, matmul=options.matmul)
        units = units_of(sites, options.outside)
        log = reconstruct(model, reference, units, lambda: data.batches(BATCH), config, learn=learn)
        return Quantized(model, log={"reconstruction": log})


def chosen_samples(
    data: CalibrationSet, options: Ptq4ditOptions, *, large: bool = False
) -> tuple[CalibrationSet, CalibrationSet]:
    """Choose the samples for reconstruction, and the smaller *initial set* for ranges and salience.

    `large` means that the model is a DiT for 512 pixels, which takes fewer timesteps.
    """
    steps, per_step = (LARGE_STEPS, LARGE_PER_STEP) if large else (STEPS, PER_STEP)
    if not options.first_classes:
        return data.spread(steps, per_step), data.spread(steps, INITIAL_PER_STEP)
    first = data.label == data.label.min()
    if data.protocol.guided:  # each sample is followed by its unconditional copy
        first = first | torch.cat([first.new_zeros(1), first[:-1]])
    return data.spread(steps, per_step), data.take(first).spread(steps, INITIAL_PER_STEP)


def balance(model: Network, sites: Sequence[Site], data: CalibrationSet, options: Ptq4ditOptions) -> dict[str, Tensor]:
    """Compute the factors of CSB (with SSC, if it is on), and fold them into the layers around each site, in place.

    Return the factor (in,) of each balanced input by the name of the first site with this input.
    """
    factors = {}
    for site, x in collect_inputs(model, leaders(model, sites), data.batches(BATCH)):
        salience = activation_salience(x)
        if options.salience == "timestep":
            salience = torch.stack([salience[data.timestep == t].amax(dim=0) for t in data.timestep.unique()])
        of_weight = weight_salience(joint_weight(model, site))
        of_activation: Tensor = temporal_salience(salience, of_weight) if options.ssc else salience.amax(dim=0)
        factor = balance_factors(of_activation, of_weight)
        factors[site] = factor.masked_fill(factor == 0, 1)
        del x  # before the next block is computed
    for site, factor in factors.items():
        fold(model, site, factor)
    return {site.name: factor for site, factor in factors.items()}


def value_factors(sites: Sequence[Site], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name of each `v` site → the factor (in,) by which its V was divided: that of the linear `attn_out` after it."""
    of_projection = {
        f"{site.name.rpartition('.')[0]}.v": factors[site.name]
        for site in sites
        if isinstance(site.fold_source, ValueRows) and site.name in factors
    }
    return {site.name: of_projection[site.name] for site in with_roles(sites, "v") if site.name in of_projection}
