"""DiTs with random weights everywhere, also where training starts from zero (adaLN, output layer)."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from qdit.core.errors import QditError
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT

SMALL = DiTConfig(input_size=8, in_channels=4, hidden_size=48, depth=3, num_heads=4, num_classes=10)
MINI = DiTConfig(input_size=8, in_channels=1, hidden_size=24, depth=2, num_heads=2, num_classes=10)


def randomized(config: DiTConfig, seed: int = 0) -> DiT:
    """Every parameter random, so that no branch is silently multiplied by zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = DiT(config)
    positions = model.pos_embed
    model.to_empty(device="cpu")
    model.pos_embed = positions
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = math.prod(module.weight.shape[1:])
            nn.init.normal_(module.weight, std=fan_in**-0.5, generator=draw)
            nn.init.normal_(module.bias, std=0.3, generator=draw)
    nn.init.normal_(model.y_embedder.embedding_table.weight, generator=draw)
    return model.eval().requires_grad_(False)


@pytest.fixture
def random_dit() -> Callable[..., DiT]:
    return randomized


@pytest.fixture
def small() -> DiT:
    """Four channels, 48 wide, 3 deep."""
    return randomized(SMALL)


@pytest.fixture
def mini() -> DiT:
    """One channel, 24 wide, 2 deep: the mini profile's kind."""
    return randomized(MINI)


@pytest.fixture
def batch() -> Callable[[DiTConfig], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Inputs for a configuration: x (5, C, L, L), timesteps from both ends, labels with the null class."""

    def make(config: DiTConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(5, config.in_channels, config.input_size, config.input_size, generator=draw)
        return x, torch.tensor([0, 1, 41, 500, 999]), torch.tensor([0, 3, config.null_class, 9, 5])

    return make


@pytest.fixture
def one_line_error() -> Callable[..., None]:
    """Check that an action raises exactly this kind of error, in one line that holds these words."""

    def check(kind: type[QditError], action: Callable[[], object], *words: str) -> None:
        with pytest.raises(QditError) as caught:
            action()
        message = str(caught.value)
        assert caught.type is kind, message
        assert "\n" not in message and len(message) < 600
        for word in words:
            assert word in message, (word, message)

    return check
