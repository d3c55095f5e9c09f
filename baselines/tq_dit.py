"""TQ-DiT: multi-region quantizers (MRQ), time groups (TGQ), and a search for scales with weighted output errors.

Numbered details (Hwang et al., 2025; its released code does not run):
1. Quantizers are symmetric and uniform. A weight has one scale per tensor; the three parts of qkv have their own
   scales, and so have the two parts of an STDiT3's cross_kv. Convolutions have one scale per output channel. Inputs
   have one scale per tensor, q, k and v one per head. The search starts at max |x| / (2^(b−1) − 0.5) and tries 100
   candidates around it.
2. MRQ: softmax outputs have fine steps below a split and coarse steps above it. GELU outputs have a searched step for
   positive values and a fixed step for negative ones. The release adds the results of the fine and the coarse softmax
   quantizer, so every value is too large by about the split (`twin="sum"`).
3. TGQ: sampling steps are divided into 10 groups. Each group has its own softmax split, searched on the samples of that
   group. All other scales are shared by all steps and searched on samples of all groups.
4. The search has three rounds. Each round searches the weight's scale, then the input's scale. The score is Σ (g ⊙ (o −
   ô))²: o is the exact output, ô the quantized one, and g a weight for each element. In the release g is the gradient
   of a divergence of the prediction from itself, which is zero except for rounding errors (`fisher="kl"`). Here g =
   Jᵀv: J is the Jacobian of the prediction with respect to o, v has random signs.
5. Scope `common`: the four linears, with MRQ for softmax and GELU. Scope `own` also quantizes the patch convolution
   (weight only), the final linear, and q, k, v. Embedders and adaLN stay in full precision, as in the release.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from qdit.core.errors import Unsupported, naming
from qdit.core.options import CheckedOptions, Count, CountOrNone
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.dit import Attention
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, linear_of, select
from qdit.models.stdit3_attention import SelfAttention
from qdit.quant.activation import Activation
from qdit.quant.fisher import Fisher, Sensitivity, sensitivities
from qdit.quant.layers import operands
from qdit.quant.nonlinear import TwinGeluActivation, signed_scale
from qdit.quant.sites import quantize_site
from qdit.quant.temporal import TwinSoftmaxActivation
from qdit.quant.twin_search import (
    scores_gradient,
    search_linear,
    search_mixing,
    search_scores,
    symmetric_activation,
    symmetric_weight,
)
from qdit.sampling.calibration import CalibrationSet

BATCH = 32
PARTS = {"qkv": 3, "cross_kv": 2}
"""Linears that several matrices share, each with a scale of its own."""


@dataclass(frozen=True)
class TqDitOptions(CheckedOptions):
    """Options of TQ-DiT. `groups` is the number of time groups; 1 switches TGQ off.

    `per_group` is the samples of each group. `rounds` is the number of rounds of the search; with 0 rounds the first
    scales are used. `mrq=False` quantizes softmax and GELU outputs with uniform quantizers.
    """

    groups: Count = 10
    per_group: Count = 32
    rounds: CountOrNone = 3
    mrq: bool = True
    twin: Literal["piecewise", "sum"] = "piecewise"
    fisher: Fisher = "gauss-newton"


class TqDit(Method):
    """Quantizes softmax and GELU outputs with different steps for two regions of values. Scales are searched."""

    name = "tq-dit"
    printed = "TQ-DiT"
    citation = """@article{hwang2025tqdit,
  title = {{TQ-DiT}: Efficient Time-Aware Quantization for Diffusion Transformers},
  author = {Hwang, Younghye and Lee, Hyojin and Kang, Joonhyuk},
  journal = {arXiv preprint},
  year = {2025}
}"""
    calibration = ("per-step",)
    Options = TqDitOptions
    sensitive_rows = 320
    color = "#0072B2"  # blue
    marker = "h"
    minutes = 1440

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: TqDitOptions,
    ) -> Quantized:
        """Quantize block by block.

        The scales of each layer are searched alone, with full-precision inputs and gradients.
        """
        if isinstance(model, DiffusersNetwork):
            raise Unsupported("tq-dit: attention of a diffusers transformer has no site for the softmax output")
        reference, model = deepcopy(model), deepcopy(model)
        linears = select(model.sites(), roles=CORE_ROLES if scope == "common" else (*CORE_ROLES, "final"))
        factors = select(model.sites(), roles=("p",) if scope == "common" else ("q", "k", "p", "v"))
        data, group = time_groups(calibration["per-step"], options)
        for block in dict.fromkeys(site.block for site in linears):
            block_sites = [site for site in (*linears, *factors) if site.block == block]
            sensitivity = sensitivities(
                reference, with_operands(reference, block_sites), data.batches(BATCH), fisher=options.fisher
            )
            for site in block_sites:
                if site.kind == "linear":
                    quantize_linear(model, site, sensitivity[site.name], weight_bits, activation_bits, options)
            if activation_bits < FULL_PRECISION_BITS and block is not None:
                search_attention(model, block_sites, sensitivity, data, group, activation_bits, options)
        if scope == "own" and weight_bits < FULL_PRECISION_BITS:
            for site in select(model.sites(), roles=("patch_embed",)):
                weight = linear_of(model, site).weight.detach().flatten(1)
                scale = signed_scale(weight[:, None], weight_bits, per=0)
                with naming(site.name):
                    stored = symmetric_weight(weight, scale, weight_bits)
                quantize_site(model, site, weight=stored)
        return Quantized(model)


def time_groups(data: CalibrationSet, options: TqDitOptions) -> tuple[CalibrationSet, Tensor]:
    """Choose `per_group` samples from each group of steps. Return the samples and the group number of each sample.

    There is at most one group per step. The chosen samples are evenly spaced from the first to the last sample of a
    group. A fixed even stride would not do: in a set with guidance every second sample is an unconditional copy, and an
    even stride would miss all of them.
    """
    steps = data.protocol.steps
    groups = min(options.groups, steps)
    group = torch.searchsorted(data.schedule, data.timestep) * groups // steps
    rows = [(group == g).nonzero()[:, 0] for g in range(groups)]
    rows = [r[torch.linspace(0, len(r) - 1, min(options.per_group, len(r))).round().long()] for r in rows]
    sample_indices = torch.cat(rows)
    return data.take(sample_indices), group[sample_indices]


def with_operands(model: Network, sites: list[Site]) -> list[Site]:
    """Sites with all four operands (q, k, v, softmax output) of their blocks, which the searches in attention need."""
    blocks = {site.block for site in sites if site.kind == "operand"}
    inside = [site for site in operands(model) if site.block in blocks]
    return [*(site for site in sites if site.kind != "operand"), *inside]


def quantize_linear(
    model: Network, site: Site, sensitivity: Sensitivity, weight_bits: int, activation_bits: int, options: TqDitOptions
) -> None:
    """Quantize weight and input of one linear with searched scales.

    The parts q, k and v of qkv each have their own scale.
    """
    weight, twin = linear_of(model, site).weight.detach(), site.role == "fc2" and options.mrq
    scale_w, scale_x = search_linear(
        sensitivity.x,
        weight,
        sensitivity.gradient,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        parts=PARTS.get(site.role, 1),
        twin=twin,
        rounds=options.rounds,
    )
    if weight_bits < FULL_PRECISION_BITS:
        with naming(site.name):
            stored = symmetric_weight(weight, scale_w, weight_bits)
        quantize_site(model, site, weight=stored)
    if activation_bits < FULL_PRECISION_BITS:
        gelu = TwinGeluActivation(bits=activation_bits, positive_scale=scale_x)
        quantize_site(model, site, activation=gelu if twin else symmetric_activation(scale_x, activation_bits))


def search_attention(
    model: Network,
    sites: list[Site],
    sensitivity: Mapping[str, Sensitivity],
    data: CalibrationSet,
    group: Tensor,
    bits: int,
    options: TqDitOptions,
) -> None:
    """Quantize the softmax output of one block, and q, k and v too if they are among the sites."""
    named = {site.role: site for site in with_operands(model, sites)}
    # Of a clip every frame, or every position, has an attention of its own: they count as samples of its time group.
    q, k, p, v = (sensitivity[named[role].name].x.flatten(0, -4) for role in "qkpv")
    attention = cast(Attention | SelfAttention, model.get_submodule(named["p"].name.rpartition(".")[0]))
    projection = linear_of(model, named["attn_out"]).weight.detach()
    of_mixed = sensitivity[named["attn_out"].name].gradient @ projection
    of_output = attention.heads(of_mixed, places=v.shape[-2]).flatten(0, -4)
    group = group.repeat_interleave(len(p) // len(group))
    quantize_v = named["v"] in sites
    splits, scale_v = search_mixing(
        p, v, of_output, group, bits=bits, quantize_v=quantize_v, twin=options.twin, rounds=options.rounds
    )
    if options.mrq:
        timesteps = data.schedule
        rows = torch.arange(len(timesteps), device=splits.device) * len(splits) // len(timesteps)
        quantizer: Activation = TwinSoftmaxActivation(
            bits=bits, split=splits, timesteps=timesteps, rows=rows, context=model.step_context, mode=options.twin
        )
    else:
        quantizer = symmetric_activation(signed_scale(p, bits).reshape(1), bits)
    quantize_site(model, named["p"], activation=quantizer)
    if quantize_v:
        gradient = scores_gradient(p, sensitivity[named["p"].name].gradient.flatten(0, -4))
        scale_q, scale_k = search_scores(q, k, gradient, bits=bits, rounds=options.rounds)
        for role, scale in (("q", scale_q), ("k", scale_k), ("v", scale_v)):
            quantize_site(model, named[role], activation=symmetric_activation(scale, bits))
