"""Small random models for tests: every weight nonzero, so that no part of the network is silent."""

import torch

from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.sampling.calibration import (
    AT_EVERY_STEP,
    CONDITIONAL,
    KINDS,
    CalibrationSet,
    chosen_steps,
    with_unconditional,
)
from qdit.sampling.protocol import Protocol
from qdit.sampling.schedule import respaced

PROTOCOL = Protocol(steps=8, cfg_scale=1.5)
TINY = DiTConfig(input_size=8, patch_size=2, in_channels=1, hidden_size=48, depth=2, num_heads=2, num_classes=10)


def random_dit(config: DiTConfig = TINY, *, seed: int = 0) -> DiT:
    """A DiT in eval mode with random weights, modulation and output layers included."""
    generator = torch.Generator().manual_seed(seed)
    model = DiT(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if name.endswith("bias") else parameter[0].numel() ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(config: DiTConfig = TINY, *, count: int = 6, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """x, timestep and label for a forward pass."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, config.in_channels, config.input_size, config.input_size, generator=generator)
    timestep = torch.randint(1000, (count,), generator=generator)
    label = torch.randint(config.num_classes + 1, (count,), generator=generator)
    return x, timestep, label


def calibration_set(
    kind: str, *, samples: int = 16, protocol: Protocol = PROTOCOL, config: DiTConfig = TINY
) -> CalibrationSet:
    """A calibration set of the layout of `collect`, its images random instead of a trajectory's.

    The trajectories of a random model drift far away from the images that `inputs` makes.
    """
    schedule, draw = respaced(protocol.steps).timesteps, torch.Generator().manual_seed(KINDS.index(kind))
    label = torch.randint(config.num_classes, (samples,), generator=draw)
    if kind in AT_EVERY_STEP:
        step = torch.arange(protocol.steps).flip(0).repeat_interleave(samples)
        label = label.repeat(protocol.steps)
    else:
        step = torch.from_numpy(chosen_steps(kind, samples, protocol.steps, protocol.seed)).clamp(min=0)
    x = torch.randn(len(step), config.in_channels, config.input_size, config.input_size, generator=draw)
    unconditional = torch.zeros(len(step), dtype=torch.bool)
    found = CalibrationSet(kind, x, torch.from_numpy(schedule)[step], (label,), unconditional, protocol)
    guided = kind not in CONDITIONAL and protocol.guided
    return with_unconditional(found, (torch.full_like(label, config.null_class),)) if guided else found
