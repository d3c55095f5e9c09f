"""A second STDiT3 in NumPy and float64, one clip at a time, written from the architecture's description alone."""

from typing import Any

import numpy as np

from qdit.models.config import STDiT3Config

State = dict[str, np.ndarray]


def linear(x: np.ndarray, state: State, name: str) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def scalar_embedding(value: float, state: State, name: str, size: int) -> np.ndarray:
    half = size // 2
    frequencies = np.array([10000.0 ** (-j / half) for j in range(half)])
    embedded = np.concatenate([np.cos(value * frequencies), np.sin(value * frequencies)])
    return linear(silu(linear(embedded, state, f"{name}.mlp.0")), state, f"{name}.mlp.2")


def rotate(x: np.ndarray) -> np.ndarray:
    """(frames, d): pair (2k, 2k + 1) of frame p turned by p · 10000^(−2k/d), as complex numbers."""
    frames, size = x.shape
    pairs = x[:, 0::2] + 1j * x[:, 1::2]
    angles = np.arange(frames)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    turned = pairs * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(frames, size)


def self_attention(x: np.ndarray, state: State, name: str, heads: int, *, temporal: bool) -> np.ndarray:
    """(T, S, D), head by head, over S for each frame or over T for each position."""
    frames, positions, width = x.shape
    size = width // heads
    fused = linear(x, state, f"{name}.qkv")
    mixed = np.zeros_like(x)
    for head in range(heads):
        q, k, v = (fused[..., part * width + head * size : part * width + (head + 1) * size] for part in range(3))
        q = rms_norm(q, state[f"{name}.q_norm.weight"])
        k = rms_norm(k, state[f"{name}.k_norm.weight"])
        own = slice(head * size, (head + 1) * size)
        if temporal:
            for s in range(positions):
                scores = np.einsum("id,jd->ij", rotate(q[:, s]), rotate(k[:, s])) / np.sqrt(size)
                mixed[:, s, own] = np.einsum("ij,jd->id", softmax(scores), v[:, s])
        else:
            for t in range(frames):
                scores = np.einsum("id,jd->ij", q[t], k[t]) / np.sqrt(size)
                mixed[t, :, own] = np.einsum("ij,jd->id", softmax(scores), v[t])
    return linear(mixed, state, f"{name}.proj")


def cross_attention(x: np.ndarray, text: np.ndarray, state: State, name: str, heads: int) -> np.ndarray:
    width = x.shape[-1]
    size = width // heads
    q, both = linear(x, state, f"{name}.q_linear"), linear(text, state, f"{name}.kv_linear")
    mixed = np.zeros_like(x)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        k, v = both[:, own], both[:, width:][:, own]
        weights = softmax(np.einsum("tsd,ld->tsl", q[..., own], k) / np.sqrt(size))
        mixed[..., own] = np.einsum("tsl,ld->tsd", weights, v)
    return linear(mixed, state, f"{name}.proj")


def block(x: np.ndarray, text: np.ndarray, six: np.ndarray, state: State, name: str, **options: Any) -> np.ndarray:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = six + state[f"{name}.scale_shift_table"]
    heads = options["heads"]
    a = layer_norm(x) * (1 + scale_a) + shift_a
    x = x + gate_a * self_attention(a, state, f"{name}.attn", heads, temporal=options["temporal"])
    x = x + cross_attention(x, text, state, f"{name}.cross_attn", heads)
    a = layer_norm(x) * (1 + scale_m) + shift_m
    return x + gate_m * linear(gelu(linear(a, state, f"{name}.mlp.fc1")), state, f"{name}.mlp.fc2")


def position(width: int, row: int, column: int, rows: int, columns: int, scale: float) -> np.ndarray:
    base = round(np.sqrt(rows * columns))
    half = width // 2
    frequencies = [1 / 10000 ** (2 * k / half) for k in range(half // 2)]
    places = (column / scale * base / columns, row / scale * base / rows)
    return np.array([f(place * w) for place in places for f in (np.sin, np.cos) for w in frequencies])


def forward(
    config: STDiT3Config,
    state: State,
    x: np.ndarray,
    timestep: float,
    text: np.ndarray,
    *,
    fps: float,
    height: float,
    width: float,
) -> np.ndarray:
    """One clip (C, T, H, W) with only the valid tokens of its text (L, text_width) → (2C, T, H, W)."""
    channels, frames, tall, wide = x.shape
    patch, long, hidden = config.patch_size, config.frame_patch, config.hidden_size
    steps, rows, columns = -(-frames // long), -(-tall // patch), -(-wide // patch)
    padded = np.zeros((channels, steps * long, rows * patch, columns * patch))
    padded[:, :frames, :tall, :wide] = x
    tokens = np.zeros((steps, rows * columns, hidden))
    scale = np.sqrt(height * width) / config.base_size
    for t, row, column in np.ndindex(steps, rows, columns):
        cell = padded[:, t * long :, row * patch :, column * patch :][:, :long, :patch, :patch]
        embedded = (state["x_embedder.proj.weight"] * cell).sum((1, 2, 3, 4)) + state["x_embedder.proj.bias"]
        place = position(hidden, row, column, rows, columns, scale)
        tokens[t, row * columns + column] = embedded + place
    condition = scalar_embedding(timestep, state, "t_embedder", config.frequency_size)
    condition = condition + scalar_embedding(fps, state, "fps_embedder", config.frequency_size)
    six = linear(silu(condition), state, "t_block.1").reshape(6, hidden)
    projected = linear(gelu(linear(text, state, "y_embedder.y_proj.fc1")), state, "y_embedder.y_proj.fc2")
    for index in range(config.depth):
        for kind in ("spatial", "temporal"):
            name = f"{kind}_blocks.{index}"
            options = {"heads": config.num_heads, "temporal": kind == "temporal"}
            tokens = block(tokens, projected, six, state, name, **options)
    shift, scale_row = condition + state["final_layer.scale_shift_table"]
    tokens = linear(layer_norm(tokens) * (1 + scale_row) + shift, state, "final_layer.linear")
    out = np.zeros((config.out_channels, *padded.shape[1:]))
    for t, row, column in np.ndindex(steps, rows, columns):
        for offset, value in enumerate(tokens[t, row * columns + column]):
            later, rest = divmod(offset, patch * patch * config.out_channels)
            down, rest = divmod(rest, patch * config.out_channels)
            right, channel = divmod(rest, config.out_channels)
            out[channel, t * long + later, row * patch + down, column * patch + right] = value
    return out[:, :frames, :tall, :wide]
