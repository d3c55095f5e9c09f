"""Make the salient form of a model: the same function, but channels as unequal as in Q-DiT's Figures 2 and 3.

Channels between a modulated LayerNorm (or V) and the next linear are multiplied by factors; the linear divides by them.
So some activations or weights become large. V is also mixed within each head by an ill-conditioned matrix, which no
folding of channel factors can undo. The parameters were chosen once by the results of RTN and group quantization, whose
rows the tables mark as "fitted". They are frozen. The form is a stress test and allows no verdict about folding
methods.
"""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qdit.core.seeds import Purpose, generator
from qdit.models.dit import DiT
from qdit.models.roles import select
from qdit.quant.folding import fold, mix_values


@dataclass(frozen=True)
class SalientConfig:
    """Parameters of the salient form. A fraction of the activation channels and of the weight channels gets a factor k.

    k is exp(|N| σ_a) for activations and exp(−|N| σ_w) for weights, where N is standard normal. `mixing_spread` is the
    σ of the log singular values of the matrix that mixes V within each head.
    """

    sigma_activation: float = 1.5
    fraction_activation: float = 0.05
    sigma_weight: float = 1.8
    fraction_weight: float = 0.04
    mixing_spread: float = 0.5
    seed: int = 0


def channel_factors(config: SalientConfig, width: int, draw: np.random.Generator) -> Tensor:
    """Draw the factor k (width,) of each channel. It is 1 for most channels.

    Where k is above 1, the activations get large; where k is below 1, the weights get large.
    """
    order = draw.permutation(width)
    large = round(config.fraction_activation * width)
    small = round(config.fraction_weight * width)
    factors = np.ones(width, dtype=np.float32)
    factors[order[:large]] = np.exp(np.abs(draw.standard_normal(large)) * config.sigma_activation)
    factors[order[large : large + small]] = np.exp(-np.abs(draw.standard_normal(small)) * config.sigma_weight)
    return torch.from_numpy(factors)


def mixing_matrices(spread: float, heads: int, width: int, draw: np.random.Generator) -> Tensor:
    """Draw one matrix per head (heads, width, width) with log-normal singular values and random singular vectors."""
    left, right = (np.linalg.qr(draw.standard_normal((heads, width, width)))[0] for _ in range(2))
    singular = np.exp(spread * draw.standard_normal((heads, 1, width)))
    return torch.from_numpy((left * singular) @ right.transpose(0, 2, 1)).float()


def make_salient(model: DiT, config: SalientConfig) -> DiT:
    """Copy the model and make some channels very large. The copy computes the same function."""
    model = deepcopy(model)
    heads = model.config.num_heads
    width = model.config.hidden_size // heads
    for number, site in enumerate(select(model.sites(), roles=("qkv", "attn_out", "fc1"))):
        draw = generator(config.seed, Purpose.SALIENT_FORM, number)
        if site.role == "attn_out":
            mix_values(model, site, mixing_matrices(config.mixing_spread, heads, width, draw))
        fold(model, site, 1 / channel_factors(config, model.config.hidden_size, draw))
    return model
