"""Guidance as the original does it: which channels, which rows, and when not at all."""

from types import SimpleNamespace

import pytest
import torch

from qdit.sampling.guidance import denoiser

LABELS = torch.tensor([3, 7])


class Fake:
    """A model with 10 classes whose output tells label, timestep, input and channel apart; keeps its inputs."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(null_class=10)
        self.calls: list[tuple[torch.Tensor, ...]] = []

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        self.calls.append((x, timestep, label))
        channel = torch.arange(1.0, 2 * x.shape[1] + 1)[None, :, None, None]
        scale = (label + 1.0)[:, None, None, None]
        return channel * scale + 0.01 * torch.cat([x, x], dim=1) + 1e-4 * timestep[:, None, None, None]


def inputs(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([40, 40])


@pytest.mark.parametrize(("channels", "guided"), [(1, 1), (3, 3), (4, 3)])
def test_only_the_first_three_channels_of_the_noise_are_guided(channels: int, guided: int) -> None:
    model = Fake()
    x, t = inputs(channels)
    found = denoiser(model, LABELS, 1.5)(x, t)
    conditional = Fake()(x, t, LABELS)
    unconditional = Fake()(x, t, torch.tensor([10, 10]))
    assert found.shape == (2, 2 * channels, 4, 4)
    expected = unconditional[:, :guided] + 1.5 * (conditional[:, :guided] - unconditional[:, :guided])
    torch.testing.assert_close(found[:, :guided], expected)
    assert torch.equal(found[:, guided:], conditional[:, guided:])
    assert not torch.allclose(found[:, :guided], conditional[:, :guided], atol=0.1)


def test_both_branches_see_the_same_images_and_timesteps() -> None:
    model = Fake()
    x, t = inputs(4)
    denoiser(model, LABELS, 4.0)(x, t)
    assert [label.tolist() for _, _, label in model.calls] == [[3, 7], [10, 10]]
    assert all(torch.equal(seen, x) and torch.equal(timestep, t) for seen, timestep, _ in model.calls)


@pytest.mark.parametrize("cfg_scale", [1.0, 0.0])
def test_no_guidance_is_one_plain_forward(cfg_scale: float) -> None:
    model = Fake()
    x, t = inputs(4)
    found = denoiser(model, LABELS, cfg_scale)(x, t)
    assert torch.equal(found, Fake()(x, t, LABELS))
    assert len(model.calls) == 1 and model.calls[0][2].tolist() == [3, 7]


def test_scale_near_one_tends_to_the_plain_forward(dit) -> None:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([999, 999])
    plain = denoiser(dit, LABELS, 1.0)(x, t)
    torch.testing.assert_close(denoiser(dit, LABELS, 1.0 + 1e-6)(x, t), plain, rtol=1e-4, atol=1e-5)
    assert (denoiser(dit, LABELS, 3.0)(x, t) - plain).abs().max() > 1e-2
