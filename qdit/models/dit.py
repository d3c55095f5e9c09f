"""DiT: the diffusion transformer of Peebles & Xie (2023), with fused qkv and the names of the official checkpoints.

It has 2-D sin-cos positions (width first), timestep frequencies divided by 128, adaLN-Zero blocks, LayerNorm without
weight and bias (eps 1e-6), tanh-GELU and learned sigma. A method may replace modules that are sites by quantized ones;
`DiT.sites()` lists them with their roles.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.models.config import DiTConfig as DiTConfig
from qdit.models.config import STDiT3Config
from qdit.models.roles import ModulationRows, Site, StepContext, ValueRows

DIT_XL_2_256 = DiTConfig(input_size=32)
DIT_XL_2_512 = DiTConfig(input_size=64)


def sincos_positions(hidden_size: int, side: int) -> Tensor:
    """Fixed sin-cos embeddings (1, side², hidden) of a square grid's positions, as in DiT and MAE.

    The first half of the channels encodes the column, the second half the row.
    """
    omega = 10000.0 ** (-np.arange(hidden_size // 4, dtype=np.float64) / (hidden_size / 4))
    rows, columns = np.divmod(np.arange(side * side), side)

    def axis(positions: np.ndarray) -> np.ndarray:
        angles = np.outer(positions, omega)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    table = np.concatenate([axis(columns), axis(rows)], axis=1)
    return torch.from_numpy(table.astype(np.float32))[None]


def timestep_frequencies(timestep: Tensor, size: int) -> Tensor:
    """Sin-cos features (N, size) of timesteps (N,): [cos(t f_j) | sin(t f_j)] with f_j = 10000^(−j/half).

    half is size / 2. The exponent is divided by half as in DiT's program, not by half − 1.
    """
    half = size // 2
    frequencies = torch.exp(-np.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PatchEmbed(nn.Module):
    """Map an image (N, C, L, L) to tokens (N, T, D), one per patch, row by row."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        # Tokens one after the other: every layer behind reads them so.
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


class TimestepEmbedder(nn.Module):
    """Map timesteps (N,), on DiT's training scale 0…999, to embeddings (N, D)."""

    def __init__(self, config: DiTConfig | STDiT3Config) -> None:
        super().__init__()
        self.frequency_size = config.frequency_size
        self.mlp = nn.Sequential(
            nn.Linear(config.frequency_size, config.hidden_size),
            nn.SiLU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )

    def forward(self, timestep: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.mlp(timestep_frequencies(timestep, self.frequency_size).to(dtype))


class LabelEmbedder(nn.Module):
    """Map labels (N,) to embeddings (N, D); the null class stands for "no label".

    The training does the label dropout.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        # Zeros, since nn.Embedding's own random start makes torch import its compiler (seconds) on the meta device.
        table = torch.zeros(config.num_classes + 1, config.hidden_size)
        self.embedding_table = nn.Embedding.from_pretrained(table, freeze=False)

    def forward(self, label: Tensor) -> Tensor:
        return self.embedding_table(label)


class ModulatedLayerNorm(nn.Module):
    """Compute LN(x)(1 + scale) + shift. It is the site `modulate`, and has no parameters of its own.

    `fused` is a faster kernel, set by `prepare_inference`. It returns None for tensors that it does not accept; then
    torch computes.
    """

    fused: Callable[[Tensor, Tensor, Tensor], Tensor | None] | None = None

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        if self.fused is not None and (fused := self.fused(x, shift, scale)) is not None:
            return fused
        normed = F.layer_norm(x, (self.hidden_size,), eps=1e-6)
        return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


class Attention(nn.Module):
    """Multi-head self-attention. q, k, v and p (softmax output) are operand sites; by default they change nothing.

    `fused` is a faster kernel for unchanged operands, set by `prepare_inference`. If it returns None, torch computes.
    """

    fused: Callable[[Tensor, int], Tensor | None] | None = None

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.q, self.k, self.p, self.v = (nn.Identity() for _ in range(4))
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def heads(self, tokens: Tensor, places: int) -> Tensor:
        """Divide tokens (N, places, D) into heads: (N, heads, places, d). Operands have this shape."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv, plain = self.qkv(x), all(isinstance(site, nn.Identity) for site in (self.q, self.k, self.p, self.v))
        if plain and self.fused is not None and (fused := self.fused(qkv, self.num_heads)) is not None:
            return self.proj(fused)
        q, k, v = qkv.reshape(n, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if plain:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = (self.q(q) * q.shape[-1] ** -0.5) @ self.k(k).transpose(-2, -1)
            mixed = self.p(weights.softmax(dim=-1)) @ self.v(v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """MLP of a block: fc2(GELU_tanh(fc1(x)))."""

    def __init__(self, config: DiTConfig | STDiT3Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.mlp_ratio * config.hidden_size)
        self.act: nn.Module = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(config.mlp_ratio * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DiTBlock(nn.Module):
    """adaLN-Zero block.

    Its modulation has six parts: shift, scale, gate of attention, then shift, scale, gate of the MLP.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = ModulatedLayerNorm(config.hidden_size)
        self.attn = Attention(config)
        self.norm2 = ModulatedLayerNorm(config.hidden_size)
        self.mlp = Mlp(config)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden_size, 6 * config.hidden_size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=1)
        x = torch.addcmul(x, gate1[:, None], self.attn(self.norm1(x, shift1, scale1)))
        return torch.addcmul(x, gate2[:, None], self.mlp(self.norm2(x, shift2, scale2)))


class FinalLayer(nn.Module):
    """Last layer: a modulated LayerNorm, and a linear that gives noise and variance channels of each patch."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm_final = ModulatedLayerNorm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.patch_size**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden_size, 2 * config.hidden_size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        return self.linear(self.norm_final(x, shift, scale))


class DiT(nn.Module):
    """DiT: predicts noise and variance of a noisy image. (N, C, L, L), timestep (N,), label (N,) → (N, 2C, L, L)."""

    pos_embed: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.step_context = StepContext()
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimestepEmbedder(config)
        self.y_embedder = LabelEmbedder(config)
        side = config.input_size // config.patch_size
        self.register_buffer("pos_embed", sincos_positions(config.hidden_size, side))
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        self.step_context.timestep = timestep
        tokens = self.x_embedder(x) + self.pos_embed
        condition = self.t_embedder(timestep, tokens.dtype) + self.y_embedder(label)
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self.unpatchify(self.final_layer(tokens, condition))

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Put the outputs of all patches together to images: (N, T, p·p·C) → (N, C, L, L).

        The values of a token are in the order (row, column, channel).
        """
        patch, channels = self.config.patch_size, self.config.out_channels
        side = self.config.input_size // patch
        grid = tokens.reshape(-1, side, side, patch, patch, channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, side * patch, side * patch)

    def sites(self) -> list[Site]:
        """List all replaceable submodules in the order in which the data pass through them."""
        sites = [
            Site("x_embedder.proj", "patch_embed", "conv"),
            Site("t_embedder.mlp.0", "time_embed", "linear"),
            Site("t_embedder.mlp.2", "time_embed", "linear"),
            Site("y_embedder.embedding_table", "label_embed", "embedding"),
        ]
        for index in range(self.config.depth):
            sites += block_sites(index, self.config.hidden_size)
        return [
            *sites,
            Site("final_layer.adaLN_modulation.1", "final_adaln", "linear"),
            Site("final_layer.norm_final", "modulate", "modulate"),
            Site(
                "final_layer.linear",
                "final",
                "linear",
                fold_source=modulation_rows("final_layer.adaLN_modulation.1", 0, self.config.hidden_size),
            ),
        ]


def modulation_rows(linear: str, chunk: int, width: int) -> ModulationRows:
    """Shift and scale rows of an adaLN linear: chunk number `chunk` is the shift, the next chunk the scale.

    A chunk is `width` rows.
    """
    start = chunk * width
    return ModulationRows(linear, shift=(start, start + width), scale=(start + width, start + 2 * width))


def block_sites(index: int, width: int) -> list[Site]:
    """Sites of block number `index`, in the order in which the data pass through them."""
    prefix = f"blocks.{index}"
    adaln = f"{prefix}.adaLN_modulation.1"
    qkv = f"{prefix}.attn.qkv"
    return [
        Site(adaln, "adaln", "linear", index),
        Site(f"{prefix}.norm1", "modulate", "modulate", index),
        Site(qkv, "qkv", "linear", index, modulation_rows(adaln, 0, width)),
        *(Site(f"{prefix}.attn.{operand}", operand, "operand", index) for operand in "qkpv"),
        Site(f"{prefix}.attn.proj", "attn_out", "linear", index, ValueRows(qkv, (2 * width, 3 * width))),
        Site(f"{prefix}.norm2", "modulate", "modulate", index),
        Site(f"{prefix}.mlp.fc1", "fc1", "linear", index, modulation_rows(adaln, 3, width)),
        Site(f"{prefix}.mlp.fc2", "fc2", "linear", index),
    ]
