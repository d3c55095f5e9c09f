"""Small random video models for tests: every weight nonzero, so that no part of the network is silent."""

import torch

from qdit.models.config import STDiT3Config
from qdit.models.stdit3 import STDiT3
from qdit.sampling.calibration import (
    AT_EVERY_STEP,
    CONDITIONAL,
    KINDS,
    CalibrationSet,
    chosen_steps,
    with_unconditional,
)
from qdit.sampling.calibration_set import schedule_of
from qdit.sampling.families import CLIPS
from qdit.sampling.flow_protocol import FlowProtocol

TINY_VIDEO = STDiT3Config(
    in_channels=3,
    patch_size=2,
    hidden_size=24,
    depth=2,
    num_heads=2,
    mlp_ratio=2,
    text_width=12,
    text_tokens=7,
    frequency_size=16,
    base_size=16,
    pixels_per_cell=2,
)

FLOW = FlowProtocol(frames=3, height=8, width=12, fps=8, steps=8, cfg_scale=1.5, shift=1.0)
"""What the clips of `video_inputs` are sampled with."""


def random_stdit3(config: STDiT3Config = TINY_VIDEO, *, seed: int = 0) -> STDiT3:
    """An STDiT3 in eval mode with random weights, tables, norms and no-text tokens included."""
    generator = torch.Generator().manual_seed(seed)
    model = STDiT3(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            else:
                spread = 0.3 if name.endswith(("bias", "table")) else parameter[0].numel() ** -0.5
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        shape = model.y_embedder.y_embedding.shape
        model.y_embedder.y_embedding.copy_(torch.randn(shape, generator=generator))
    return model.eval().requires_grad_(False)


def video_inputs(
    config: STDiT3Config = TINY_VIDEO,
    *,
    count: int = 3,
    size: tuple[int, int, int] = (3, 4, 6),
    tokens: int = 5,
    seed: int = 1,
) -> tuple[torch.Tensor, ...]:
    """x, timestep, text and its mask (rows of different lengths, at least one token) for a forward pass."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, config.in_channels, *size, generator=generator)
    timestep = 1000 * torch.rand(count, generator=generator)
    text = torch.randn(count, tokens, config.text_width, generator=generator)
    lengths = 1 + torch.arange(count) * 2 % tokens
    return x, timestep, text, torch.arange(tokens) < lengths[:, None]


def video_calibration_set(
    kind: str, *, samples: int = 16, protocol: FlowProtocol = FLOW, config: STDiT3Config = TINY_VIDEO
) -> CalibrationSet:
    """A calibration set of the layout of `collect`, its clips random instead of a trajectory's."""
    if kind in AT_EVERY_STEP:
        step = torch.arange(protocol.steps).flip(0).repeat_interleave(samples)
    else:
        step = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, protocol.seed)).clamp(min=0)
    x, _, text, mask = video_inputs(config, count=len(step), seed=KINDS.index(kind))
    prompts = torch.arange(len(step)) % samples
    conditions = (text[prompts], mask[prompts])
    unconditional = torch.zeros(len(step), dtype=torch.bool)
    found = CalibrationSet(kind, x, schedule_of(protocol)[step], conditions, unconditional, protocol)
    guided = kind not in CONDITIONAL and protocol.guided
    return with_unconditional(found, CLIPS.null_conditions(random_stdit3(config), conditions)) if guided else found
