"""Search for the scales of two factors of a product in alternating rounds (PTQ4ViT, TQ-DiT).

A product is a linear (weight and input), or one of the two matrix products of attention. The quantizers are symmetric.
The candidates are multiples of max |x| / (2^(b−1) − 0.5). `qdit.quant.fisher.search_scale` scores them.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from qdit.core.affine import Granularity, fake_quantize
from qdit.core.run import FULL_PRECISION_BITS
from qdit.quant.activation import StaticActivation
from qdit.quant.fisher import FRACTIONS, SPLITS, search_scale
from qdit.quant.nonlinear import signed_scale, twin_gelu, twin_softmax
from qdit.quant.weight import QuantizedWeight, quantize_weight


def signed(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize x symmetrically around 0. At 16 bits the result is x itself."""
    return x if bits == FULL_PRECISION_BITS else fake_quantize(x, scale, torch.zeros_like(scale), bits, symmetric=True)


def symmetric_weight(weight: Tensor, scale: Tensor, bits: int) -> QuantizedWeight:
    """Quantize a weight (out, in) symmetrically. Its rows form equal parts; each has one number of scale (parts,)."""
    rows = scale.repeat_interleave(len(weight) // len(scale))[:, None] if len(scale) > 1 else scale[:, None]
    granularity = Granularity("channel" if len(scale) > 1 else "tensor")
    zeros = torch.zeros_like(rows)
    return quantize_weight(weight, bits=bits, granularity=granularity, ranges=lambda *_: (rows, zeros), symmetric=True)


def symmetric_activation(scale: Tensor, bits: int) -> StaticActivation:
    """Build a symmetric static quantizer with one scale per tensor, or per head if there are several scales."""
    zero_point = torch.full_like(scale, 2 ** (bits - 1))
    return StaticActivation(bits=bits, scale=scale, zero_point=zero_point, per="head" if len(scale) > 1 else "group")


def search_linear(
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    *,
    weight_bits: int,
    activation_bits: int,
    parts: int = 1,
    twin: bool = False,
    rounds: int = 3,
) -> tuple[Tensor, Tensor]:
    """Find the scales of a weight (parts,) and of its input (1,), searched in alternating rounds.

    x is (…, in), weight (out, in), gradient (…, out). The rows of the weight are divided into `parts` equal parts, such
    as q, k and v. Each part has one scale. With `twin` the input is a GELU output, and its scale is that of the
    positive values. With 0 rounds the start values are returned.
    """
    x, gradient = x.flatten(0, -2), gradient.flatten(0, -2)
    exact = x @ weight.t()
    divided = weight.view(parts, -1)

    def of_x(scale: Tensor) -> Tensor:
        twinned = twin and activation_bits < FULL_PRECISION_BITS
        return twin_gelu(x, scale, activation_bits) if twinned else signed(x, scale, activation_bits)

    def of_weight(scale: Tensor) -> Tensor:
        return signed(divided, scale[:, None], weight_bits).view_as(weight)

    def search(start: Tensor, product: Callable[[Tensor], Tensor], count: int) -> Tensor:
        def cut(y: Tensor) -> Tensor:
            return y.reshape(len(y), count, -1)

        return search_scale(start, lambda s: cut(product(s)), cut(exact), cut(gradient), candidates=FRACTIONS)

    start_w = scale_w = signed_scale(divided, weight_bits, per=0)
    start_x = scale_x = signed_scale(x.clamp(min=0) if twin else x, activation_bits).reshape(1)
    for _ in range(rounds):
        if weight_bits < FULL_PRECISION_BITS:
            fixed_x = of_x(scale_x)
            scale_w = search(start_w, lambda s, fixed=fixed_x: fixed @ of_weight(s).t(), parts)  # type: ignore[misc]
        if activation_bits < FULL_PRECISION_BITS:
            fixed_w = of_weight(scale_w).t()
            scale_x = search(start_x, lambda s, fixed=fixed_w: of_x(s) @ fixed, 1)  # type: ignore[misc]
    return scale_w, scale_x


def scores_gradient(p: Tensor, gradient: Tensor) -> Tensor:
    """Compute the gradient at the input of the softmax from the gradient at its output p (N, heads, T, T)."""
    return p * (gradient - (gradient * p).sum(dim=-1, keepdim=True))


def search_scores(q: Tensor, k: Tensor, gradient: Tensor, *, bits: int, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """Find the scales of q and k (heads,) for the product q kᵀ, from the gradient of this product (N, heads, T, T)."""
    start_q = scale_q = signed_scale(q, bits, per=1)
    start_k = scale_k = signed_scale(k, bits, per=1)
    exact, g = (q @ k.transpose(-2, -1)).flatten(2), gradient.flatten(2)

    def product(of_q: Tensor, of_k: Tensor) -> Tensor:
        left, right = signed(q, of_q[:, None, None], bits), signed(k, of_k[:, None, None], bits)
        return (left @ right.transpose(-2, -1)).flatten(2)

    for _ in range(rounds):
        scale_q = search_scale(start_q, lambda s, o=scale_k: product(s, o), exact, g, candidates=FRACTIONS)  # type: ignore[misc]
        scale_k = search_scale(start_k, lambda s, o=scale_q: product(o, s), exact, g, candidates=FRACTIONS)  # type: ignore[misc]
    return scale_q, scale_k


def search_mixing(
    p: Tensor,
    v: Tensor,
    gradient: Tensor,
    group: Tensor,
    *,
    bits: int,
    quantize_v: bool,
    twin: Literal["piecewise", "sum"] = "piecewise",
    rounds: int = 3,
) -> tuple[Tensor, Tensor]:
    """Find the splits (groups,) of the twin softmax quantizer of p and the scales (heads,) of v, for the product p v.

    p is (N, heads, T, T); v and gradient are (N, heads, T, d). Sample i belongs to time group `group[i]`. The search
    starts with the split 1 / 2^(bits − 1) and with the start scales of v.
    """
    start_v = scale_v = signed_scale(v, bits, per=1)
    splits = torch.full((int(group.max()) + 1,), 2.0 ** (1 - bits), device=p.device)
    exact = p @ v

    def of_v(scale: Tensor) -> Tensor:
        return signed(v, scale[:, None, None], bits) if quantize_v else v

    for _ in range(rounds):
        values = of_v(scale_v)
        for number in range(len(splits)):
            rows = (group == number).nonzero()[:, 0]
            splits[number] = search_scale(
                torch.ones(1, device=p.device),
                lambda s, r=rows, w=values: (twin_softmax(p[r], s, bits, mode=twin) @ w[r]).flatten(1)[:, None],  # type: ignore[misc]
                exact[rows].flatten(1)[:, None],
                gradient[rows].flatten(1)[:, None],
                candidates=SPLITS,
            )[0]
        if quantize_v:
            mixed = twin_softmax(p, splits[group][:, None, None, None], bits, mode=twin)
            scale_v = search_scale(
                start_v,
                lambda s, m=mixed: (m @ of_v(s)).flatten(2),  # type: ignore[misc]
                exact.flatten(2),
                gradient.flatten(2),
                candidates=FRACTIONS,
            )
    return splits, scale_v
