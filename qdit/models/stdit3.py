"""STDiT3: the video diffusion transformer of Open-Sora 1.2, with the names of the official checkpoints.

Spatial and temporal blocks alternate. One linear (`t_block`) gives the modulation of all blocks, and each block adds
its own table. The code follows the architecture, without xformers or colossalai. A method
may replace modules that are sites by quantized ones; `STDiT3.sites()` lists them with their roles.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.models.config import STDiT3Config as STDiT3Config
from qdit.models.dit import Mlp, ModulatedLayerNorm, TimestepEmbedder
from qdit.models.roles import SharedModulation, Site, StepContext, ValueRows
from qdit.models.stdit3_attention import CrossAttention, Rotation, SelfAttention

STDIT3_XL_2 = STDiT3Config()


def sincos(places: np.ndarray, width: int) -> np.ndarray:
    """Sin-cos features (places, width) of positions p: [sin(p ω_k) | cos(p ω_k)], ω_k = 10000^(−2k/width), float64."""
    angles = np.outer(places, 10000.0 ** (-np.arange(0, width, 2) / width))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def spatial_positions(hidden_size: int, rows: int, columns: int, scale: float) -> Tensor:
    """Sin-cos embeddings (rows · columns, hidden) of grid positions, float32. First half: column, second half: row.

    Positions are stretched to a square of the same area, and divided by `scale`: the clip's size relative to the base
    size.
    """
    base = round((rows * columns) ** 0.5)
    down, across = (np.arange(count) / scale * base / count for count in (rows, columns))
    halves = (
        np.tile(sincos(across, hidden_size // 2), (rows, 1)),
        np.repeat(sincos(down, hidden_size // 2), columns, 0),
    )
    return torch.from_numpy(np.concatenate(halves, axis=1).astype(np.float32))


class ClipEmbed(nn.Module):
    """Map a clip (N, C, T, H, W), divisible by the patches, to tokens (N, frames, positions, D).

    Positions are row by row.
    """

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        patch = (config.frame_patch, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(3).permute(0, 2, 3, 1)


class TextProjection(nn.Module):
    """Map the text encoder's tokens (…, text_width) to the width of the model, (…, D)."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.text_width, config.hidden_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, text: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(text)))


class TextEmbedder(nn.Module):
    """Project the text to the width of the model, and hold the learned tokens for "no text".

    The training, not this class, replaces random texts by "no text".
    """

    y_embedding: Tensor

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.register_buffer("y_embedding", torch.zeros(config.text_tokens, config.text_width))
        self.y_proj = TextProjection(config)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Project text (N, L, text_width) to (N, L, D).

        Tokens outside the mask (N, L) are set to zero before and after.
        """
        valid = mask[:, :, None]
        return self.y_proj(text.masked_fill(~valid, 0)).masked_fill(~valid, 0)


class STDiT3Block(nn.Module):
    """Block with self-attention over positions or frames, cross-attention to the text, and an MLP.

    Cross-attention has no norm and no gate. The modulation has six parts: shift, scale, gate of self-attention, then
    shift, scale, gate of the MLP.
    """

    def __init__(self, config: STDiT3Config, rotation: Rotation | None = None) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, config.hidden_size))
        self.norm1 = ModulatedLayerNorm(config.hidden_size)
        self.attn = SelfAttention(config, rotation)
        self.cross_attn = CrossAttention(config)
        self.norm2 = ModulatedLayerNorm(config.hidden_size)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, text: Tensor, modulation: Tensor, mask: Tensor) -> Tensor:
        """Compute the tokens after the block, in the shape of x.

        x is (N, frames, positions, D), text (N, L, D), modulation (N, 6D). mask (N, L) is true at valid text tokens.
        """
        frames, tokens = x.shape[1], x.flatten(1, 2)
        six = self.scale_shift_table + modulation.unflatten(1, (6, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = six.unbind(1)
        attended = self.attn(self.norm1(tokens, shift1, scale1), frames)
        tokens = torch.addcmul(tokens, gate1[:, None], attended)
        tokens = tokens + self.cross_attn(tokens, text, mask)
        tokens = torch.addcmul(tokens, gate2[:, None], self.mlp(self.norm2(tokens, shift2, scale2)))
        return tokens.reshape(x.shape)


class FinalLayer(nn.Module):
    """Last layer: a modulated LayerNorm and the projection to patches.

    `condition` is the embedding of timestep and fps itself, not the output of `t_block`.
    """

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, config.hidden_size))
        self.norm_final = ModulatedLayerNorm(config.hidden_size)
        cells = config.frame_patch * config.patch_size**2
        self.linear = nn.Linear(config.hidden_size, cells * config.out_channels)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + condition[:, None]).unbind(1)
        return self.linear(self.norm_final(tokens, shift, scale))


class STDiT3(nn.Module):
    """STDiT3: predicts the velocity (data − noise) of a noisy clip with a text. (N, C, T, H, W) → (N, 2C, T, H, W).

    Only the first C output channels are used.
    """

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.config = config
        self.step_context = StepContext()
        self.rope = Rotation(config.head_size)
        self.x_embedder = ClipEmbed(config)
        self.t_embedder = TimestepEmbedder(config)
        self.fps_embedder = TimestepEmbedder(config)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden_size, 6 * config.hidden_size))
        self.y_embedder = TextEmbedder(config)
        self.spatial_blocks = nn.ModuleList(STDiT3Block(config) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(STDiT3Block(config, self.rope) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        fps: Tensor | float | None = None,
        height: Tensor | float | None = None,
        width: Tensor | float | None = None,
    ) -> Tensor:
        """Velocity of a batch.

        x               (N, C, T, H, W) noisy latents or pixels; T, H and W need not be multiples of the patch.
        timestep        (N,) on the 0…1000 scale, may be fractional.
        text            (N, L, text_width) tokens of the text encoder, L at most text_tokens.
        text_mask       (N, L), true at valid tokens; without it all are. At least one token of a row must be valid.
        fps             frames per second, one number or (N,); default: the configuration's.
        height, width   of the clip in pixels, one for the whole batch; default: H and W times pixels_per_cell.
        """
        self.step_context.timestep = timestep
        mask = torch.ones_like(text[..., 0], dtype=torch.bool) if text_mask is None else text_mask.bool()
        tokens = self.embed(x, height, width)
        condition = self.t_embedder(timestep, tokens.dtype) + self.embedded_fps(fps, len(x), tokens)
        modulation, projected = self.t_block(condition), self.y_embedder(text.to(tokens.dtype), mask)
        for block in self.blocks():
            tokens = block(tokens, projected, modulation, mask)
        return self.unpatchify(self.final_layer(tokens.flatten(1, 2), condition), x.shape[2:])

    def embed(self, x: Tensor, height: Tensor | float | None, width: Tensor | float | None) -> Tensor:
        """Embed a clip as tokens (N, frames, positions, D) with their positions.

        Before, x is padded with zeros to whole patches.
        """
        config = self.config
        frames, rows, columns = self.grid(x.shape[2:])
        added = (rows * config.patch_size - x.shape[3], columns * config.patch_size - x.shape[4])
        padding = (0, added[1], 0, added[0], 0, frames * config.frame_patch - x.shape[2])
        # Under autocast the convolution's output is in half precision; the sum over the blocks is not.
        tokens = self.x_embedder(F.pad(x, padding) if any(padding) else x).to(x.dtype)
        area = pixels(height, x.shape[3] * config.pixels_per_cell) * pixels(width, x.shape[4] * config.pixels_per_cell)
        tokens = tokens + spatial_positions(config.hidden_size, rows, columns, area**0.5 / config.base_size).to(tokens)
        if config.frame_positions:
            numbers = sincos(np.arange(frames), config.hidden_size).astype(np.float32)
            tokens = tokens + torch.from_numpy(numbers).to(tokens)[:, None]
        return tokens

    def embedded_fps(self, fps: Tensor | float | None, rows: int, like: Tensor) -> Tensor:
        """Embedding (rows, D) of the frames per second for `rows` samples, in the dtype and on the device of `like`."""
        value = torch.as_tensor(self.config.fps if fps is None else fps, dtype=torch.float32, device=like.device)
        embedded: Tensor = self.fps_embedder(value.expand(rows), like.dtype)
        return embedded

    def blocks(self) -> Iterator[nn.Module]:
        """All blocks in the order in which the data pass through them: spatial 0, temporal 0, spatial 1, and so on."""
        for pair in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            yield from pair

    def null_text(self, rows: int, tokens: int) -> Tensor:
        """Text (rows, tokens, text_width) of the unconditional branch: the first `tokens` learned tokens for "no text".

        `tokens` is the length of the prompt. Also in Open-Sora's program, the unconditional branch has the mask of the
        prompt. So its length depends on the prompt.
        """
        return self.y_embedder.y_embedding[:tokens].expand(rows, -1, -1)

    def grid(self, size: torch.Size) -> tuple[int, int, int]:
        """Number of patches along the frames, rows and columns of a clip of size (T, H, W)."""
        patch, (frames, rows, columns) = self.config.patch_size, size
        return -(-frames // self.config.frame_patch), -(-rows // patch), -(-columns // patch)

    def unpatchify(self, tokens: Tensor, size: torch.Size) -> Tensor:
        """Put the outputs of all patches together to clips: (N, tokens, p_t·p·p·C) → (N, C, T, H, W).

        The padding is cut off. The values of a token are in the order (frame, row, column, channel).
        """
        config = self.config
        patch = (config.frame_patch, config.patch_size, config.patch_size, config.out_channels)
        cells = tokens.reshape(len(tokens), *self.grid(size), *patch).permute(0, 7, 1, 4, 2, 5, 3, 6)
        whole = cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return whole[:, :, : size[0], : size[1], : size[2]]

    def sites(self) -> list[Site]:
        """List all replaceable submodules in the order in which the data pass through them."""
        sites = [
            Site("x_embedder.proj", "patch_embed", "conv"),
            *(Site(f"t_embedder.mlp.{index}", "time_embed", "linear") for index in (0, 2)),
            *(Site(f"fps_embedder.mlp.{index}", "fps_embed", "linear") for index in (0, 2)),
            Site("t_block.1", "t_block", "linear"),
            *(Site(f"y_embedder.y_proj.{name}", "caption_proj", "linear") for name in ("fc1", "fc2")),
        ]
        for index in range(self.config.depth):
            sites += block_sites(f"spatial_blocks.{index}", 2 * index, self.config.hidden_size)
            sites += block_sites(f"temporal_blocks.{index}", 2 * index + 1, self.config.hidden_size)
        norm = "final_layer.norm_final"
        return [
            *sites,
            Site(norm, "modulate", "modulate"),
            Site("final_layer.linear", "final", "linear", fold_source=SharedModulation(norm)),
        ]


def pixels(side: Tensor | float | None, default: int) -> float:
    """Side of the clips in pixels: a number, the first entry of a tensor of equal entries, or `default` for None."""
    if side is None:
        return float(default)
    return float(side.flatten()[0]) if isinstance(side, Tensor) else float(side)


def block_sites(prefix: str, block: int, width: int) -> list[Site]:
    """Sites of one block.

    `block` is its number among spatial and temporal blocks together, in the order of the data.
    """
    qkv, text = f"{prefix}.attn.qkv", f"{prefix}.cross_attn.kv_linear"
    norms = [f"{prefix}.norm{number}" for number in (1, 2)]
    return [
        Site(norms[0], "modulate", "modulate", block),
        Site(qkv, "qkv", "linear", block, SharedModulation(norms[0])),
        *(Site(f"{prefix}.attn.{operand}", operand, "operand", block) for operand in "qkpv"),
        Site(f"{prefix}.attn.proj", "attn_out", "linear", block, ValueRows(qkv, (2 * width, 3 * width))),
        Site(f"{prefix}.cross_attn.q_linear", "cross_q", "linear", block),
        Site(text, "cross_kv", "linear", block),
        Site(f"{prefix}.cross_attn.proj", "cross_out", "linear", block, ValueRows(text, (width, 2 * width))),
        Site(norms[1], "modulate", "modulate", block),
        Site(f"{prefix}.mlp.fc1", "fc1", "linear", block, SharedModulation(norms[1])),
        Site(f"{prefix}.mlp.fc2", "fc2", "linear", block),
    ]
