"""A tiny pipeline of diffusers around a tiny FLUX. Its texts are embedded by a small table, not by a language model."""

import zlib
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.lazy import LazyModule
from tests.small_transformers import PROMPT, positions

diffusers = LazyModule("diffusers")


class TextEncoder(nn.Module):
    """Embeds a text as random numbers that its letters decide, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(8, 24, bias=False)
        with torch.no_grad():
            self.table.weight.copy_(torch.randn(24, 8, generator=torch.Generator().manual_seed(0)))
        self.calls = 0

    def forward(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        self.calls += 1
        draws = [torch.Generator().manual_seed(zlib.crc32(prompt.encode())) for prompt in prompts]
        pooled = torch.stack([torch.randn(8, generator=draw) for draw in draws])
        words = torch.stack([torch.randn(PROMPT, 8, generator=draw) for draw in draws])
        return self.table(words), pooled


def flow_scheduler() -> Any:
    """The scheduler of FLUX and Wan."""
    return diffusers.FlowMatchEulerDiscreteScheduler()


def flux_inputs(latents: Tensor, time: Tensor, texts: tuple[Tensor, Tensor], guidance: float) -> dict[str, Any]:
    """Arguments of a tiny FLUX for latents (N, 16, 4) and times (N,) on 0 to 1000."""
    words, pooled = texts
    return {
        "hidden_states": latents,
        "timestep": time / 1000,
        "guidance": torch.full((len(latents),), guidance),
        "pooled_projections": pooled.to(latents.dtype),
        "encoder_hidden_states": words.to(latents.dtype),
        "txt_ids": torch.zeros(PROMPT, 3),
        "img_ids": positions(4, 4),
        "joint_attention_kwargs": None,
    }


def wan_inputs(latents: Tensor, time: Tensor, texts: tuple[Tensor, Tensor], _guidance: float) -> dict[str, Any]:
    """Arguments of a tiny Wan for latents (N, 4, 2, 4, 4) and times (N,) on 0 to 1000."""
    return {"hidden_states": latents, "timestep": time, "encoder_hidden_states": texts[0].to(latents.dtype)}


def decoded(latents: Tensor, height: int, width: int) -> Any:
    """What stands for a VAE: images (N, H, W, 3) of latents (N, 16, 4), or clips (N, T, H, W, 3) of (N, 4, T, h, w)."""
    images = latents.float().unflatten(1, (4, 4)).permute(0, 3, 1, 2) if latents.dim() == 3 else latents.float()
    frames = images.transpose(1, 2).flatten(0, 1) if images.dim() == 5 else images
    large = nn.functional.interpolate(frames[:, :3], (height, width), mode="bilinear").sigmoid()
    pixels = large.permute(0, 2, 3, 1).numpy()
    return pixels.reshape(len(latents), -1, *pixels.shape[1:]) if images.dim() == 5 else pixels


INPUTS = {"FluxPipeline": (flux_inputs, (16, 4)), "WanPipeline": (wan_inputs, (4, 2, 4, 4))}
"""Class of diffusers → the arguments of its transformer, and the shape of the latents of a tiny one."""


@cache
def tiny_pipeline_class(name: str = "FluxPipeline") -> Any:
    """A pipeline class with the name, and the main arguments, of one of diffusers."""
    inputs, shape = INPUTS[name]

    class Tiny(diffusers.DiffusionPipeline):  # type: ignore[misc]
        """Latents for texts. With true_cfg_scale above 1 a second call makes the unconditional branch."""

        _optional_components = ["text_encoder"]  # noqa: RUF012 - diffusers adds it to a list

        def __init__(self, transformer: Any, scheduler: Any, text_encoder: Any) -> None:
            super().__init__()
            self.register_modules(transformer=transformer, scheduler=scheduler, text_encoder=text_encoder)

        def encode_prompt(self, prompt: Any) -> tuple[Tensor, Tensor]:
            encoder = self.text_encoder or TextEncoder().requires_grad_(False)
            return encoder([prompt] if isinstance(prompt, str) else prompt)

        @torch.no_grad()
        def __call__(
            self,
            prompt: Any = None,
            height: int | None = None,
            width: int | None = None,
            num_frames: int | None = None,
            num_inference_steps: int = 4,
            max_sequence_length: int = 512,
            guidance_scale: float = 3.5,
            true_cfg_scale: float = 1.0,
            generator: Any = None,
            output_type: str = "latent",
        ) -> Any:
            count = 1 if isinstance(prompt, str) else len(prompt)
            texts = [self.encode_prompt(prompt)]
            texts += [self.encode_prompt([""] * count)] if true_cfg_scale > 1 else []
            # A generator for each sample, as the pipelines of diffusers take them.
            draws = generator if isinstance(generator, list) else [generator]
            parts = [torch.randn(count // len(draws), *shape, generator=draw) for draw in draws]
            latents = torch.cat(parts).to(self.transformer.dtype)
            self.scheduler.set_timesteps(num_inference_steps)
            for t in self.scheduler.timesteps:
                time = t.expand(count).to(latents.dtype)
                velocity, *other = (
                    self.transformer(**inputs(latents, time, text, guidance_scale), return_dict=False)[0]
                    for text in texts
                )
                if other:
                    velocity = other[0] + true_cfg_scale * (velocity - other[0])
                latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
            made = latents if output_type == "latent" else decoded(latents, height or 32, width or 32)
            return SimpleNamespace(images=made, frames=made)

    Tiny.__name__ = Tiny.__qualname__ = name
    return Tiny
