"""Small random models for tests: every weight nonzero, so that no part of the network is silent."""

import torch

from qdit.models.dit import DiT, DiTConfig

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
