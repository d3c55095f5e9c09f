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


@cache
def tiny_pipeline_class() -> Any:
    """A pipeline class with the arguments of FluxPipeline, for transformers with 4 input channels."""

    class FluxPipeline(diffusers.DiffusionPipeline):  # type: ignore[misc]
        """Images (latents) for texts. With true_cfg_scale above 1 a second call makes the unconditional branch."""

        _optional_components = ("text_encoder",)

        def __init__(self, transformer: Any, scheduler: Any, text_encoder: Any) -> None:
            super().__init__()
            self.register_modules(transformer=transformer, scheduler=scheduler, text_encoder=text_encoder)

        def encode_prompt(self, prompt: Any, device: Any = None) -> tuple[Tensor, Tensor]:
            prompts = [prompt] if isinstance(prompt, str) else prompt
            encoder = self.text_encoder or TextEncoder().requires_grad_(False)
            return encoder(prompts)

        @torch.no_grad()
        def __call__(
            self,
            prompt: Any = None,
            num_inference_steps: int = 4,
            guidance_scale: float = 3.5,
            true_cfg_scale: float = 1.0,
            generator: Any = None,
            output_type: str = "latent",
        ) -> Any:
            count = 1 if isinstance(prompt, str) else len(prompt)
            dtype = self.transformer.dtype
            texts = [self.encode_prompt(prompt)]
            texts += [self.encode_prompt([""] * count)] if true_cfg_scale > 1 else []
            latents = torch.randn(count, 16, 4, generator=generator).to(dtype)
            self.scheduler.set_timesteps(num_inference_steps)
            for t in self.scheduler.timesteps:
                velocities = [
                    self.transformer(
                        hidden_states=latents,
                        timestep=t.expand(count).to(dtype) / 1000,
                        guidance=torch.full((count,), guidance_scale)
                        if self.transformer.config.guidance_embeds
                        else None,
                        pooled_projections=pooled.to(dtype),
                        encoder_hidden_states=words.to(dtype),
                        txt_ids=torch.zeros(PROMPT, 3),
                        img_ids=positions(4, 4),
                        joint_attention_kwargs=None,
                        return_dict=False,
                    )[0]
                    for words, pooled in texts
                ]
                velocity = velocities[0]
                if len(velocities) > 1:
                    velocity = velocities[1] + true_cfg_scale * (velocity - velocities[1])
                latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
            return SimpleNamespace(images=latents)

    return FluxPipeline
