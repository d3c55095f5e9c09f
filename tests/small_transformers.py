"""Tiny random diffusers transformers of many families, and keyword batches for them. Every weight is nonzero."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qdit.models.generic.network import DiffusersNetwork
from qdit.quant.batches import Keywords
from qdit.sampling.keyword_set import KeywordSet
from qdit.sampling.pipeline_protocol import PipelineProtocol
from tests.lazy import LazyModule

diffusers = LazyModule("diffusers")

Draw = torch.Generator
PROMPT = 5
"""Tokens of a prompt."""


@dataclass(frozen=True)
class Tiny:
    """A class of diffusers, the configuration of a tiny model, and how its inputs are drawn.

    `samples(n, draw)` are arguments with a row for each of n samples; `shared` are the same for all samples.
    """

    class_name: str
    config: Mapping[str, Any]
    samples: Callable[[int, Draw], dict[str, Any]]
    shared: Callable[[], dict[str, Any]] = dict
    timestep: float = 1000.0
    """Largest timestep of this family."""


def noise(draw: Draw, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw)


def times(draw: Draw, count: int, scale: float = 1000.0) -> Tensor:
    """Timesteps of an eight-step schedule, as whole eighths of `scale`."""
    return (1 + torch.randint(8, (count,), generator=draw)).float() * scale / 8


def positions(*sides: int) -> Tensor:
    """(cells, 1 + sides) integer coordinates; the first column is zero."""
    grid = torch.cartesian_prod(*(torch.arange(side) for side in sides)).float()
    return torch.cat([torch.zeros(len(grid), 1), grid], dim=1)


def prompt_mask(count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """All tokens of a prompt are valid but the last."""
    mask = torch.ones(count, PROMPT, dtype=dtype)
    mask[:, -1] = 0
    return mask


def flux_samples(n: int, draw: Draw) -> dict[str, Any]:
    return {
        "hidden_states": noise(draw, n, 16, 4),
        "encoder_hidden_states": noise(draw, n, PROMPT, 24),
        "pooled_projections": noise(draw, n, 8),
        "timestep": times(draw, n, 1.0),
        "guidance": torch.full((n,), 3.5),
    }


def without(samples: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in samples.items() if name not in names}


def image_text(channels: int, width: int, **more: Callable[[int, Draw], Any]) -> Callable[[int, Draw], dict[str, Any]]:
    """Latents (n, channels, 8, 8), text (n, PROMPT, width) and timesteps, and what `more` draws."""

    def samples(n: int, draw: Draw) -> dict[str, Any]:
        return {
            "hidden_states": noise(draw, n, channels, 8, 8),
            "encoder_hidden_states": noise(draw, n, PROMPT, width),
            "timestep": times(draw, n),
        } | {name: value(n, draw) for name, value in more.items()}

    return samples


def video_text(*shape: int, width: int, **more: Callable[[int, Draw], Any]) -> Callable[[int, Draw], dict[str, Any]]:
    """Latents (n, *shape), text (n, PROMPT, width) and timesteps, and what `more` draws."""

    def samples(n: int, draw: Draw) -> dict[str, Any]:
        return {
            "hidden_states": noise(draw, n, *shape),
            "encoder_hidden_states": noise(draw, n, PROMPT, width),
            "timestep": times(draw, n),
        } | {name: value(n, draw) for name, value in more.items()}

    return samples


def hunyuan_dit_samples(n: int, draw: Draw) -> dict[str, Any]:
    return {
        "hidden_states": noise(draw, n, 4, 8, 8),
        "timestep": times(draw, n),
        "encoder_hidden_states": noise(draw, n, PROMPT, 24),
        "text_embedding_mask": prompt_mask(n),
        "encoder_hidden_states_t5": noise(draw, n, PROMPT, 16),
        "text_embedding_mask_t5": prompt_mask(n),
    }


def ltx_samples(n: int, draw: Draw) -> dict[str, Any]:
    return {
        "hidden_states": noise(draw, n, 2 * 2 * 4, 8),
        "encoder_hidden_states": noise(draw, n, PROMPT, 24),
        "timestep": times(draw, n),
        "encoder_attention_mask": prompt_mask(n),
    }


def rotary(cells: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (cells, width) of rotary positions."""
    angles = torch.arange(cells).float()[:, None] * 0.1 * (1 + torch.arange(width).float())
    return angles.cos(), angles.sin()


SMALL_FLUX = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 4, 8),
}
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}

ZOO = {
    "dit": Tiny(
        "DiTTransformer2DModel",
        {**HEADS, "in_channels": 2, "out_channels": 4, "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": 10},
        lambda n, draw: {
            "hidden_states": noise(draw, n, 2, 8, 8),
            "timestep": times(draw, n).long() - 1,
            "class_labels": torch.randint(11, (n,), generator=draw),
        },
    ),
    "flux": Tiny(
        "FluxTransformer2DModel",
        {**SMALL_FLUX, "pooled_projection_dim": 8, "guidance_embeds": True},
        flux_samples,
        lambda: {"img_ids": positions(4, 4), "txt_ids": torch.zeros(PROMPT, 3)},
        1.0,
    ),
    "flux2": Tiny(
        "Flux2Transformer2DModel",
        {**SMALL_FLUX, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 16},
        lambda n, draw: without(flux_samples(n, draw), "pooled_projections"),
        lambda: {"img_ids": positions(1, 4, 4), "txt_ids": torch.zeros(PROMPT, 4)},
        1.0,
    ),
    "chroma": Tiny(
        "ChromaTransformer2DModel",
        {**SMALL_FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        lambda n, draw: without(flux_samples(n, draw), "pooled_projections", "guidance"),
        lambda: {"img_ids": positions(4, 4), "txt_ids": torch.zeros(PROMPT, 3)},
        1.0,
    ),
    "sd3": Tiny(
        "SD3Transformer2DModel",
        {
            **HEADS,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 24,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        image_text(4, 24, pooled_projections=lambda n, draw: noise(draw, n, 8)),
    ),
    "pixart": Tiny(
        "PixArtTransformer2DModel",
        {
            "attention_head_dim": 16,
            "num_attention_heads": 3,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 48,
            "sample_size": 8,
            "caption_channels": 24,
            "use_additional_conditions": True,
        },
        image_text(
            4,
            24,
            encoder_attention_mask=lambda n, draw: prompt_mask(n),
            added_cond_kwargs=lambda n, draw: {
                "resolution": torch.full((n, 2), 64.0),
                "aspect_ratio": torch.ones(n, 1),
            },
        ),
    ),
    "sana": Tiny(
        "SanaTransformer2DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 32,
            "caption_channels": 24,
            "sample_size": 8,
        },
        image_text(4, 24, encoder_attention_mask=lambda n, draw: prompt_mask(n)),
    ),
    "lumina2": Tiny(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": (8, 4, 4),
            "axes_lens": (32, 16, 16),
            "cap_feat_dim": 24,
        },
        image_text(
            4,
            24,
            encoder_attention_mask=lambda n, draw: prompt_mask(n, torch.bool),
            timestep=lambda n, draw: times(draw, n, 1.0),
        ),
        timestep=1.0,
    ),
    "qwen-image": Tiny(
        "QwenImageTransformer2DModel",
        {
            **HEADS,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 24,
            "axes_dims_rope": (4, 4, 8),
        },
        lambda n, draw: {
            "hidden_states": noise(draw, n, 16, 16),
            "encoder_hidden_states": noise(draw, n, PROMPT, 24),
            "encoder_hidden_states_mask": prompt_mask(n),
            "timestep": times(draw, n, 1.0),
            "img_shapes": [[(1, 4, 4)]] * n,
        },
        timestep=1.0,
    ),
    "hunyuan-dit": Tiny(
        "HunyuanDiT2DModel",
        {
            **HEADS,
            "in_channels": 4,
            "patch_size": 2,
            "sample_size": 8,
            "hidden_size": 32,
            "num_layers": 4,
            "cross_attention_dim": 24,
            "cross_attention_dim_t5": 16,
            "pooled_projection_dim": 8,
            "text_len": PROMPT,
            "text_len_t5": PROMPT,
            "use_style_cond_and_image_meta_size": False,
        },
        hunyuan_dit_samples,
        lambda: {"image_rotary_emb": rotary(16, 16)},
    ),
    "wan": Tiny(
        "WanTransformer3DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 24,
            "freq_dim": 16,
            "ffn_dim": 48,
            "num_layers": 2,
            "rope_max_seq_len": 16,
        },
        video_text(4, 2, 4, 4, width=24),
    ),
    "cogvideox": Tiny(
        "CogVideoXTransformer3DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 16,
            "text_embed_dim": 24,
            "num_layers": 2,
            "sample_width": 4,
            "sample_height": 4,
            "sample_frames": 5,
            "max_text_seq_length": PROMPT,
            "attention_bias": True,
        },
        video_text(2, 4, 4, 4, width=24),
    ),
    "hunyuan-video": Tiny(
        "HunyuanVideoTransformer3DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 24,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (4, 4, 8),
        },
        video_text(
            *(4, 2, 4, 4),
            width=24,
            encoder_attention_mask=lambda n, draw: prompt_mask(n),
            pooled_projections=lambda n, draw: noise(draw, n, 8),
            guidance=lambda n, draw: torch.full((n,), 6016.0),
        ),
    ),
    "latte": Tiny(
        "LatteTransformer3DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 32,
            "sample_size": 8,
            "attention_bias": True,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "caption_channels": 24,
            "video_length": 3,
        },
        video_text(4, 3, 8, 8, width=24),
    ),
    "ltx-video": Tiny(
        "LTXVideoTransformer3DModel",
        {
            **HEADS,
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": 32,
            "num_layers": 2,
            "caption_channels": 24,
        },
        ltx_samples,
        lambda: {"num_frames": 2, "height": 2, "width": 4},
    ),
    "auraflow": Tiny(
        "AuraFlowTransformer2DModel",
        {
            **HEADS,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "joint_attention_dim": 24,
            "caption_projection_dim": 32,
            "pos_embed_max_size": 16,
        },
        image_text(4, 24, timestep=lambda n, draw: times(draw, n, 1.0)),
        timestep=1.0,
    ),
}


def randomized(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """The model in eval mode with random weights, also where its class begins with zeros or ones."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter[0].numel() ** -0.5 * noise(draw, *parameter.shape))
            else:
                parameter.add_(0.2 * noise(draw, *parameter.shape))
    return model.eval()


def tiny_transformer(name: str, *, seed: int = 0) -> Any:
    """A tiny model of a family, anew at each call."""
    tiny = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(diffusers, tiny.class_name)(**tiny.config)
    return randomized(model, seed=seed)


def tiny_network(name: str, *, seed: int = 0) -> DiffusersNetwork:
    """A network around a tiny model of a family, anew at each call."""
    return DiffusersNetwork(tiny_transformer(name, seed=seed))


def keywords(name: str, *, count: int = 3, seed: int = 1) -> Keywords:
    """A keyword batch for a family."""
    tiny, draw = ZOO[name], torch.Generator().manual_seed(seed)
    return Keywords(tiny.samples(count, draw), tiny.shared())


def in_type(arguments: Mapping[str, Any], dtype: torch.dtype, name: str) -> dict[str, Any]:
    """The arguments with their numbers in this type, as the pipeline of a family gives them.

    Timesteps stay as they are, except those of HunyuanDiT, whose class computes their embedding in their own type.
    """

    def changed(key: str, value: Any) -> Any:
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if is_number and (key != "timestep" or name == "hunyuan-dit") else value

    return {key: changed(key, value) for key, value in arguments.items()}


def keyword_set(name: str, kind: str, *, count: int = 4, seed: int = 2) -> KeywordSet:
    """A calibration set for a family. Its protocol has the timesteps that were drawn."""
    calls = keywords(name, count=count, seed=seed)
    steps = sorted(set(calls.timestep.float().tolist()))
    return KeywordSet.of(kind, calls, PipelineProtocol(timesteps=steps))
