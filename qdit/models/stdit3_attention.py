"""Attention of STDiT3: among the positions of a frame, among the frames of a position, and from tokens to text.

The code follows Open-Sora's architecture and uses torch's own attention with plain masks. Linear sites always get (N,
tokens, D), all tokens of a clip in one row, as in a DiT.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.models.config import STDiT3Config


class RMSNorm(nn.Module):
    """Compute x / √(mean(x²) + 1e-6) · weight over the last dimension, in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=1e-6)
        return self.weight * normed.to(x.dtype)


class Rotation(nn.Module):
    """Rotary position embedding.

    At place p it turns channels (2k, 2k + 1) by the angle p θ_k, θ_k = 10000^(−2k/size).
    """

    freqs: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        # On the CPU: arithmetic on the meta device, where an empty model is built, imports torch's compiler (seconds).
        freqs = 10000.0 ** (-torch.arange(0, size, 2, device="cpu").float() / size)
        self.register_buffer("freqs", freqs.to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """Turn the channels of x (…, places, size). The shape stays the same."""
        places = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)
        angles = (places[:, None] * self.freqs.float()).repeat_interleave(2, dim=-1)
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
        return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)


class SelfAttention(nn.Module):
    """Attention among the positions of each frame. With a `rotation`, it is among the frames of each position instead.

    q, k, v and p (softmax output) are operand sites; by default they change nothing. Their shape is (N, frames, heads,
    positions, d), or among frames (N, positions, heads, frames, d).
    """

    def __init__(self, config: STDiT3Config, rotation: Rotation | None) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        # All blocks share one rotation; a tuple keeps it out of this module's own state dict.
        self.shared = () if rotation is None else (rotation,)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.q_norm, self.k_norm = RMSNorm(config.head_size), RMSNorm(config.head_size)
        self.q, self.k, self.p, self.v = (nn.Identity() for _ in range(4))
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """Compute attention for tokens (N, frames · positions, D). The shape stays the same."""
        n, count, width = tokens.shape
        places = frames if self.shared else count // frames
        q, k, v = (self.heads(projected, places) for projected in self.qkv(tokens).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        for rotation in self.shared:
            q, k = rotation(q), rotation(k)
        mixed = self.mix(q, k, v)
        mixed = mixed.permute(0, 3, 1, 2, 4) if self.shared else mixed.transpose(2, 3)
        return self.proj(mixed.reshape(n, count, width))

    def heads(self, tokens: Tensor, places: int) -> Tensor:
        """Divide tokens (N, frames · positions, D) into heads, in the shape of the operands.

        `places` tokens attend to each other. The shape is (N, frames, heads, positions, d) for attention within frames,
        and (N, positions, heads, frames, d) for attention among frames.
        """
        parts = tokens.unflatten(-1, (self.num_heads, -1))
        others = tokens.shape[1] // places
        if self.shared:
            return parts.unflatten(1, (places, others)).permute(0, 2, 3, 1, 4)
        return parts.unflatten(1, (others, places)).transpose(2, 3)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute softmax(q kᵀ / √d) v over the last two dimensions of q, k and v, each (N, …, heads, places, d)."""
        if all(isinstance(site, nn.Identity) for site in (self.q, self.k, self.p, self.v)):
            mixed = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
            return mixed.unflatten(0, q.shape[:2])
        scores = (self.q(q) * q.shape[-1] ** -0.5) @ self.k(k).transpose(-2, -1)
        return self.p(scores.softmax(dim=-1)) @ self.v(v)


class CrossAttention(nn.Module):
    """Attention from every token of a clip to the valid tokens of the clip's text. q, k, v and p are no sites here."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.kv_linear = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Attend from tokens (N, K, D) to text (N, L, D), and return (N, K, D).

        mask (N, L) is true at valid text tokens.
        """
        n, count, width = tokens.shape
        q = self.q_linear(tokens).reshape(n, count, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv_linear(text).reshape(n, text.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return self.proj(mixed.transpose(1, 2).reshape(n, count, width))
