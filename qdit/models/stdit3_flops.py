"""Floating-point operations of one forward pass of an STDiT3. A multiply-add counts as two."""

from qdit.models.config import STDiT3Config


def forward_flops(config: STDiT3Config, size: tuple[int, int, int], text_tokens: int) -> int:
    """Number of operations of linears and attention, for one clip of `size` (T, H, W) latent cells.

    The text has `text_tokens` tokens.
    """
    width, patch = config.hidden_size, config.patch_size
    frames, places = -(-size[0] // config.frame_patch), -(-size[1] // patch) * -(-size[2] // patch)
    tokens, cells = frames * places, config.frame_patch * patch**2
    linears = tokens * (6 + 2 * config.mlp_ratio) * width**2 + text_tokens * 2 * width**2
    attention = (frames * places**2 + places * frames**2) * width  # spatial and temporal block of a pair
    cross = 2 * tokens * text_tokens * width
    pair = 2 * linears + 2 * attention + 2 * cross
    ends = tokens * width * cells * (config.in_channels + config.out_channels)
    text = text_tokens * (config.text_width + width) * width
    condition = 2 * (config.frequency_size + width) * width + 6 * width**2
    return 2 * (config.depth * pair + ends + text + condition)
