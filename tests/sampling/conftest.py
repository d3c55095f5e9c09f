"""A toy denoiser and a tiny DiT with random weights, for samplers that need no trained model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qdit.models.config import DiTConfig
from qdit.models.dit import DiT


@pytest.fixture
def toy() -> Callable[[Tensor, Tensor], Tensor]:
    """(N, C, L, L), (N,) → (N, 2C, L, L): nonlinear, depends on the timestep and mixes pixels."""

    def denoise(x: Tensor, timestep: Tensor) -> Tensor:
        time = (timestep.to(x.dtype) / 1000)[:, None, None, None]
        eps = torch.tanh(0.7 * x + 0.3 * x.roll(1, dims=-1)) * (0.5 + time) + 0.1 * time
        return torch.cat([eps, torch.sin(3 * x + time)], dim=1)

    return denoise


@pytest.fixture
def dit() -> DiT:
    """24 wide, 2 deep, on 4×4 images of one channel, random weights everywhere."""
    draw = torch.Generator().manual_seed(0)
    config = DiTConfig(input_size=4, in_channels=1, hidden_size=24, depth=2, num_heads=2, num_classes=10)
    model = DiT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture
def noise() -> Tensor:
    """(6, 2, 4, 4) standard normal."""
    return torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(11))
