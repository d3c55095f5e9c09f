"""The salient form of a video model. Unlike in `qdit.mini.training.salient`, one modulation serves all blocks.

All blocks of an STDiT3 share one modulation linear, so it cannot absorb a factor for a single block. It can absorb one
factor per channel for all blocks. This factor divides the shift and scale rows of `t_block` and of the blocks' tables.
It multiplies the columns of every block's qkv (or fc1). V is rescaled and mixed block by block. `SalientConfig`
has the same values as for the image models. No row of clips was used to choose them.
"""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from qdit.core.seeds import Purpose, generator
from qdit.mini.training.salient import SalientConfig, channel_factors, mixing_matrices
from qdit.models.roles import linear_of, select
from qdit.models.stdit3 import STDiT3
from qdit.quant.folding import fold, mix_values

MODULATED = {"qkv": (0, 1), "fc1": (3, 4)}
"""Role → chunks of the modulation that give its input's shift and scale, of shift, scale, gate, shift, scale, gate."""


def make_salient_video(model: STDiT3, config: SalientConfig) -> STDiT3:
    """Copy the model, with the official tensor names, and make some channels very large.

    The function stays the same.
    """
    model = deepcopy(model)
    width, heads = model.config.hidden_size, model.config.num_heads
    for number, role in enumerate(MODULATED):
        draw = generator(config.seed, Purpose.SALIENT_FORM, number)
        fold_everywhere(model, role, 1 / channel_factors(config, width, draw))
    for number, site in enumerate(select(model.sites(), roles=("attn_out",)), start=len(MODULATED)):
        draw = generator(config.seed, Purpose.SALIENT_FORM, number)
        mix_values(model, site, mixing_matrices(config.mixing_spread, heads, width // heads, draw))
        fold(model, site, 1 / channel_factors(config, width, draw))
    return model


def fold_everywhere(model: STDiT3, role: str, factor: Tensor) -> None:
    """Divide the inputs of the linears with this role in all blocks by `factor` (D,). The function stays the same.

    The shift of a block is a row of `t_block`'s output plus a row of the block's `scale_shift_table`; so is its scale.
    The shift and 1 + scale are divided by `factor`. The linears' columns are multiplied by `factor`.
    """
    shared, width = linear_of(model, "t_block.1"), model.config.hidden_size
    shift, scale = MODULATED[role]
    with torch.no_grad():
        for chunk in (shift, scale):
            rows = slice(chunk * width, (chunk + 1) * width)
            shared.weight[rows] /= factor[:, None]
            shared.bias[rows] /= factor
        for block in model.blocks():
            table = cast(nn.Parameter, block.scale_shift_table)
            table[shift] /= factor
            table[scale] = (1 + table[scale]) / factor - 1
        for site in select(model.sites(), roles=(role,)):
            linear_of(model, site).weight.mul_(factor)
