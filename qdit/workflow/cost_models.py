"""Compute the cost of a profile's models: operations of one evaluation of the network, and sizes of its samples.

One *evaluation* is the network on one image or one clip. A DiT of width D, depth L and T tokens takes about

    L (24 D² T + 4 T² D + 12 D²)

floating-point operations for it. A multiply-add counts as two. The terms are the four linears of a block, the two
products of attention, and adaLN. `qdit.models.stdit3_flops` counts the operations of an STDiT3. It assumes the longest
possible text, so the result is an upper bound.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from qdit.core.errors import ConfigError
from qdit.core.repository import shipped_path
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.stdit3_flops import forward_flops
from qdit.workflow.cost_pipelines import TransformerShape, transformer_shape
from qdit.workflow.families import family_at, family_of
from qdit.workflow.profile import Profile

PIXELS_PER_CELL = 8
"""Along a side, of the images that a VAE decodes."""


@dataclass(frozen=True)
class Network:
    """The size of a model at a setting, for one image or clip: operations of one evaluation, and number of tokens.

    `cells` is the number of values in one noisy sample. `pixels` is the number of bytes in one decoded uint8 sample.
    """

    config: Any
    flops: float
    tokens: int
    cells: int
    pixels: int
    shape: TransformerShape | None = None
    """Of a pipeline, which has no `config`."""


def network_of(profile: Profile, setting: str) -> Network:
    """Return the operations and sizes of the network of a setting's model."""
    networks = {"dit": image_network, "stdit3": clip_network, "diffusers": pipeline_network}
    return networks[family_at(profile, setting).name](profile, setting)


def image_network(profile: Profile, setting: str) -> Network:
    """Return the operations and sizes of a DiT for one image."""
    name = profile["settings"][setting]["model"]
    config = model_config(profile, name)
    assert isinstance(config, DiTConfig)
    cells = config.in_channels * config.input_size**2
    pixels = 3 * (PIXELS_PER_CELL * config.input_size) ** 2 if "vae" in profile["models"][name] else cells
    return Network(config, evaluation_flops(config), config.tokens, cells, pixels)


def pipeline_network(profile: Profile, setting: str) -> Network:
    """Return the operations and sizes of a pipeline's transformer for one kept image.

    If a clip is sampled, `frames` of its images are kept, and each counts for an equal part of the operations. `cells`
    are all inputs of one sample; `tokens` are those of its longest input.
    """
    call = profile["settings"][setting]["call"]
    shape, arguments, frames = transformer_shape(profile, setting), call["arguments"], max(1, call.get("frames", 0))
    tokens = max((prod(sizes[:-1]) for sizes in call["inputs"].values() if len(sizes) > 1), default=1)
    cells = sum(prod(sizes) for sizes in call["inputs"].values())
    pixels = 3 * arguments["height"] * arguments["width"]
    return Network(None, shape.flops / frames, tokens, cells, pixels, shape)


def clip_network(profile: Profile, setting: str) -> Network:
    """Return the operations and sizes of an STDiT3 for one clip.

    Mini clips are pixels; all others are latents of Open-Sora's VAE.
    """
    from qdit.mini.data.moving_digits import FRAMES, SIZE
    from qdit.models.video_vae import VideoVAEConfig

    config = model_config(profile, profile["settings"][setting]["model"])
    assert isinstance(config, STDiT3Config)
    clip = profile["settings"][setting].get("clip")
    size, decoded = (FRAMES, SIZE, SIZE), (FRAMES, SIZE, SIZE)
    if clip is not None:
        vae = VideoVAEConfig()
        size = vae.latent_size(clip["frames"], clip["height"], clip["width"])
        decoded = vae.pixel_size(clip["frames"], size)
    frames, height, width = size
    tokens = -(-frames // config.frame_patch) * -(-height // config.patch_size) * -(-width // config.patch_size)
    cells = config.in_channels * frames * height * width
    return Network(config, float(forward_flops(config, size, config.text_tokens)), tokens, cells, 3 * volume(decoded))


def volume(size: tuple[int, int, int]) -> int:
    """Return T · H · W, the number of elements of a (T, H, W) grid."""
    return size[0] * size[1] * size[2]


def evaluation_flops(config: DiTConfig) -> float:
    """Return the floating-point operations of a DiT for one image in one step, without guidance."""
    width, tokens = config.hidden_size, config.tokens
    linears = (8 + 4 * config.mlp_ratio) * width**2 * tokens
    return float(config.depth * (linears + 4 * tokens**2 * width + 12 * width**2))


def model_config(profile: Profile, name: str) -> DiTConfig | STDiT3Config:
    """Return the shape of a model: from the profile, or else from its weights; Open-Sora's shape for clip latents."""
    entry: dict[str, Any] = profile["models"][name]
    if "text_encoder" in entry:
        return STDiT3Config()
    if "shape" in entry:
        return DiTConfig(**entry["shape"])
    path = next(iter(entry["forms"].values()))
    try:
        with safe_open(shipped_path(Path(path)), framework="np") as data:
            kind: Any = family_of(entry).config
            return kind(**json.loads(data.metadata()["qdit"])["model"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"models.{name}: its shape is not known from {path}; add a key shape, {{}} for DiT-XL/2"
        ) from None
