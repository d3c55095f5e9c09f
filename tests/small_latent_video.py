"""A tiny STDiT3 of latents, a tiny video VAE and text embeddings, random and as files: Table 3 in miniature."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from qdit.models.config import STDiT3Config
from qdit.models.loading import save_model
from qdit.models.text_embeddings import join, save_embeddings
from qdit.models.video_vae import VideoVAE, VideoVAEConfig, save_video_vae
from qdit.models.video_vae_temporal import TemporalConfig
from qdit.sampling.flow_protocol import FlowProtocol
from tests.small_video_models import random_stdit3

LATENT_VIDEO = STDiT3Config(
    hidden_size=24, depth=1, num_heads=2, mlp_ratio=2, text_width=12, text_tokens=7, frequency_size=16, base_size=16
)
"""Latents of four channels, eight pixels a cell, as Open-Sora's."""

SMALL_VAE = VideoVAEConfig(
    spatial_widths=(4, 8, 8, 8),
    spatial_layers=1,
    spatial_groups=2,
    temporal=TemporalConfig(filters=4, res_blocks=1, groups=2),
)
"""Open-Sora's chunks and factors: 17 frames and 8 pixels a side at a time."""

PROMPTS = ("A cat near a door, oil painting.", "a dog", "Two birds & a fish")
FLOW = FlowProtocol(frames=6, height=17, width=24, fps=8, steps=2, cfg_scale=3.0, shift=1.5)
CLIP = ("--frames", 6, "--height", 17, "--width", 24, "--fps", 8, "--steps", 2, "--cfg-scale", 3.0, "--shift", 1.5)
"""A clip whose height is not a multiple of the VAE's factor: 16 rows of pixels come out."""


def random_vae(config: VideoVAEConfig = SMALL_VAE) -> VideoVAE:
    """A VAE with random weights, none of them silent."""
    draw = torch.Generator().manual_seed(0)
    model = VideoVAE(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        norm = "norm" in name and name.endswith("weight")
        spread = 0.1 if name.endswith("bias") else parameter[0].numel() ** -0.5
        parameter.copy_(norm + (0.1 if norm else spread) * torch.randn(parameter.shape, generator=draw))
    return model


def write_suite(path: Path, prompts: Sequence[str] = PROMPTS) -> Path:
    """A suite in VBench's schema; one prompt comes twice, as two of VBench's do."""
    rows = [{"prompt_en": prompt, "dimension": ["temporal_flickering"]} for prompt in (*prompts, prompts[0])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_embeddings(path: Path, prompts: Sequence[str] = PROMPTS, *, width: int = LATENT_VIDEO.text_width) -> Path:
    """Random tokens, one more for each next prompt."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randn(2 + index % 5, width, generator=draw).bfloat16() for index in range(len(prompts))]
    save_embeddings(path, join(prompts, rows), {"encoder": "random"})
    return path


def write_latent_video(folder: Path) -> None:
    """Weights, VAE, suite and embeddings."""
    save_model(folder / "stdit3.safetensors", random_stdit3(LATENT_VIDEO))
    save_video_vae(folder / "vae.safetensors", random_vae())
    write_suite(folder / "suite.json")
    write_embeddings(folder / "text.safetensors")
