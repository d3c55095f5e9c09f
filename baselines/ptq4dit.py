"""PTQ4DiT: salience balanced between activations and weights (CSB, SSC), then AdaRound with learned activation scales.

Numbered details (spec/methods.md §4.8; Wu et al., NeurIPS 2024):
1. CSB: x / k and W · diag(k) with k = √(s(X) / s(W)) per channel, for qkv, attention output and fc1 (not fc2);
   in an STDiT3 also for the output of cross-attention, through its V.
2. SSC: s(X) is a mean over timesteps weighted by softmax(−Spearman's ρ of s(X_t) and s(W)). The release takes every
   sample for a timestep (`salience="sample"`); the paper's text has one salience per timestep. Without SSC: the
   largest over all samples.
3. k is folded into W, and 1 / k into the adaLN rows before qkv and fc1 and into the rows of V, exactly; the release
   divides at run time, after the operands of attention. So the quantizer of V looks at k · (V / k), which is V
   (`values="before"`); `values="folded"` gives V / k one range. All k come from one full-precision pass.
4. Weights per output channel and activations per tensor: percentile search, activations on the initial set (100
   samples, four at each of 25 timesteps; more of each where the schedule has fewer).
5. Reconstruction per block: AdaRound (rate 1e-3) and activation scales (rate 4e-5, cosine) together, quantized inputs,
   full-precision targets; 20,000 iterations in the paper. The release splits them over ten shards in sequence; here
   every batch is drawn from all data.
6. Calibration: 64 samples at each of 25 evenly spaced steps, which under guidance are 32 images and their
   unconditional copies (1,600 samples); of a DiT for 512 pixels 128 samples at each of 10 steps in batches of at most
   16 (1,280). The release's first samples are of class 0 only (initial set): `first_classes` restores that; the
   paper's classes are drawn at random.
7. Its script leaves the model in training mode, so labels are dropped while sampling: never reproduced.
8. Scope `own`: every linear and convolution (no exceptions in bits), and q, k, v and the softmax output (8 bits).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qdit.core.options import CheckedOptions, Count, CountOrNone, Matmul, Positive
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.dit import DiT
from qdit.models.network import Network
from qdit.models.roles import Site, ValueRows, linear_of
from qdit.quant.apply import calibrate_static, collect_inputs, round_weights
from qdit.quant.folding import fold
from qdit.quant.layers import layers, operands, site_bits, with_roles
from qdit.quant.ranges import percentile_search
from qdit.quant.reconstruction import Reconstruction, block_units, reconstruct
from qdit.quant.salience import activation_salience, balance_factors, temporal_salience, weight_salience
from qdit.sampling.calibration import CalibrationSet

STEPS, PER_STEP, INITIAL_PER_STEP = 25, 64, 4
LARGE_STEPS, LARGE_PER_STEP, LARGE_BATCH = 10, 128, 16
"""The same of a DiT for 512 pixels, and the batch of its reconstruction."""
LARGE_INPUT = 64
"""Side of the latents of 512 pixels."""
BATCH = 64
BALANCED = ("qkv", "attn_out", "cross_out", "fc1")
"""Linears whose input a factor can be folded into."""


@dataclass(frozen=True)
class Ptq4ditOptions(CheckedOptions):
    """`csb`, `ssc` and `iterations` (0) switch the parts off; `batch` and `rate` are those of the rounding.

    `values` says whether V is quantized as it was before folding (scope `own`). `matmul` is the arithmetic of
    learning on a GPU.
    """

    csb: bool = True
    ssc: bool = True
    salience: Literal["sample", "timestep"] = "sample"
    first_classes: bool = False
    values: Literal["before", "folded"] = "before"
    iterations: CountOrNone = 20_000
    batch: Count = 32
    rate: Positive = 1e-3
    matmul: Matmul = "float32"


class Ptq4dit(Method):
    """Post-training quantization for diffusion transformers."""

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
        """Balance, round, calibrate, reconstruct."""
        model = deepcopy(model)
        large = isinstance(model, DiT) and model.config.input_size >= LARGE_INPUT
        data, initial = chosen_samples(calibration["per-step"], options, large=large)
        weighted, factors = layers(model, scope), dict[str, Tensor]()
        if options.csb:
            factors = balance(model, with_roles(weighted, *BALANCED), initial, options)
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
        log = reconstruct(model, reference, block_units(sites), lambda: data.batches(BATCH), config, learn=learn)
        return Quantized(model, log={"reconstruction": log})


def chosen_samples(
    data: CalibrationSet, options: Ptq4ditOptions, *, large: bool = False
) -> tuple[CalibrationSet, CalibrationSet]:
    """Samples for reconstruction, and the initial set; `large`: of a DiT for 512 pixels."""
    steps, per_step = (LARGE_STEPS, LARGE_PER_STEP) if large else (STEPS, PER_STEP)
    if not options.first_classes:
        return data.spread(steps, per_step), data.spread(steps, INITIAL_PER_STEP)
    first = data.label == data.label.min()
    if data.protocol.guided:  # each sample is followed by its unconditional copy
        first = first | torch.cat([first.new_zeros(1), first[:-1]])
    return data.spread(steps, per_step), data.take(first).spread(steps, INITIAL_PER_STEP)


def balance(model: Network, sites: Sequence[Site], data: CalibrationSet, options: Ptq4ditOptions) -> dict[str, Tensor]:
    """CSB with SSC, folded into the layers around each site, in place; returns the factor (in,) of each site."""
    factors = {}
    for site, x in collect_inputs(model, sites, data.batches(BATCH)):
        salience = activation_salience(x)
        if options.salience == "timestep":
            salience = torch.stack([salience[data.timestep == t].amax(dim=0) for t in data.timestep.unique()])
        of_weight = weight_salience(linear_of(model, site).weight.detach())
        of_activation: Tensor = temporal_salience(salience, of_weight) if options.ssc else salience.amax(dim=0)
        factor = balance_factors(of_activation, of_weight)
        factors[site] = factor.masked_fill(factor == 0, 1)
    for site, factor in factors.items():
        fold(model, site, factor)
    return {site.name: factor for site, factor in factors.items()}


def value_factors(sites: Sequence[Site], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name of each V → the factor that its rows were divided by: that of the projection behind it."""
    of_projection = {
        f"{site.name.rpartition('.')[0]}.v": factors[site.name]
        for site in sites
        if isinstance(site.fold_source, ValueRows) and site.name in factors
    }
    return {site.name: of_projection[site.name] for site in with_roles(sites, "v") if site.name in of_projection}
