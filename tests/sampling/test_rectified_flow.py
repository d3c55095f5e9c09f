"""Rectified flow against diffusers' scheduler, the published timesteps, closed forms and plain guidance."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import ConfigError
from qdit.models.stdit3 import STDIT3_XL_2
from qdit.models.video_vae import VideoVAEConfig
from qdit.quant.correction import NoiseCorrection
from qdit.sampling.batch import sample_clips
from qdit.sampling.flow_protocol import FlowProtocol, clip_size, flow_timesteps, timestep_shift
from qdit.sampling.noise import initial_noise
from qdit.sampling.rectified_flow import flow_trajectory, guided_velocity, sample_flow
from tests.lazy import LazyModule
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs

PROTOCOL = FlowProtocol(frames=9, height=8, width=12, fps=8, steps=4, cfg_scale=3.0, shift=2.0)


@pytest.mark.parametrize(
    ("clip", "expected"), [((51, 240, 426), 2.4187), ((51, 144, 256), 1.4524), ((1, 512, 512), 1.0)]
)
def test_shift_of_the_published_sizes(clip: tuple[int, int, int], expected: float) -> None:
    assert round(timestep_shift(*clip), 4) == expected


def test_timesteps_of_the_paper_protocol() -> None:
    found = FlowProtocol().timesteps[::-1]
    assert len(found) == 30
    np.testing.assert_allclose(found[:3], [1000, 985.94, 971.32], atol=5e-3)
    np.testing.assert_allclose(found[-3:], [211.82, 147.31, 76.98], atol=5e-3)


@pytest.mark.parametrize(("steps", "shift"), [(30, 2.4187), (10, 1.4524), (15, 3.0), (7, 1.0), (1, 2.0), (20, 0.3)])
def test_equals_the_scheduler_of_diffusers(steps: int, shift: float) -> None:
    scheduler = LazyModule("diffusers").FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    timesteps = flow_timesteps(steps, shift)
    np.testing.assert_allclose(scheduler.timesteps.numpy()[::-1], timesteps, rtol=1e-6)

    def velocity(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.roll(1, -1)) + x * timestep.view(-1, 1, 1, 1, 1) / 1000

    theirs = noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        model_output = -velocity(theirs, timestep.expand(2))
        theirs = scheduler.step(model_output, timestep, theirs, return_dict=False)[0]
    ours = sample_flow(velocity, noise, timesteps)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-6


@given(steps=st.integers(1, 60), shift=st.floats(0.05, 20))
def test_timesteps_end_in_noise_and_rise(steps: int, shift: float) -> None:
    timesteps = flow_timesteps(steps, shift)
    assert timesteps[-1] == pytest.approx(1000) and timesteps[0] > 0
    assert (np.diff(timesteps) > 0).all()


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (5, 2.4), (30, 0.5)])
def test_straight_paths_are_followed_exactly(steps: int, shift: float) -> None:
    """With v = data − noise any number of steps ends in the data, and x_t is the straight mixture on the way."""
    draw = torch.Generator().manual_seed(1)
    data, noise = (torch.randn(2, 3, 2, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    timesteps = flow_timesteps(steps, shift)
    seen = list(flow_trajectory(lambda x, t: data - noise, noise, timesteps))
    assert [step for step, _ in seen] == [*reversed(range(steps)), -1]
    for step, x in seen:
        u = timesteps[step] / 1000 if step >= 0 else 0
        torch.testing.assert_close(x, (1 - u) * data + u * noise)


def test_guidance_extrapolates_from_no_text_with_the_masks_of_the_prompts() -> None:
    model = random_stdit3()
    x, timestep, text, mask = video_inputs()
    null = model.y_embedder.y_embedding[None, :5].expand(3, -1, -1)
    sizes = {"fps": 8.0, "height": 8.0, "width": 12.0}
    toward, away = (model(x, timestep, tokens, mask, **sizes)[:, :3] for tokens in (text, null))
    found = guided_velocity(model, text, mask, PROTOCOL)(x, timestep)
    torch.testing.assert_close(found, away + 3 * (toward - away))
    plain = FlowProtocol(**PROTOCOL.to_dict() | {"cfg_scale": 1.0})
    assert not plain.guided
    torch.testing.assert_close(guided_velocity(model, text, mask, plain)(x, timestep), toward)


def test_clips_depend_on_their_index_and_text_only() -> None:
    model = random_stdit3()
    _, _, text, mask = video_inputs()
    whole = sample_clips(model, PROTOCOL, text, mask, [4, 7, 9])
    assert whole.shape == (3, 3, 3, 4, 6) and whole.dtype == torch.float32
    alone = sample_clips(model, PROTOCOL, text[1:2], mask[1:2], [7])
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-3, atol=1e-3)
    other = sample_clips(model, PROTOCOL, text[1:2], mask[1:2], [8])
    assert (other - alone).abs().max() > 0.1
    again = sample_clips(model, PROTOCOL, text, mask, [4, 7, 9])
    assert torch.equal(again, whole)


def test_sampling_follows_the_trajectory_from_the_shared_noise() -> None:
    model = random_stdit3()
    _, _, text, mask = video_inputs()
    noise = initial_noise((TINY_VIDEO.in_channels, 3, 4, 6), PROTOCOL.seed, [0, 1, 2])
    x, before = noise, [*PROTOCOL.timesteps[:-1][::-1], 0.0]
    velocity = guided_velocity(model, text, mask, PROTOCOL)
    for now, after in zip(PROTOCOL.timesteps[::-1], before, strict=True):
        x = x + velocity(x, torch.full((3,), now)) * (now - after) / 1000
    found = sample_clips(model, PROTOCOL, text, mask, range(3))
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_a_bfloat16_model_leaves_the_clip_in_float32() -> None:
    _, _, text, mask = video_inputs()
    exact = sample_clips(random_stdit3(), PROTOCOL, text, mask, range(3))
    found = sample_clips(random_stdit3().bfloat16(), PROTOCOL, text, mask, range(3))
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() / exact.norm() < 0.2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"frames": 8}, "give `shift`"),
        ({"frames": 0}, "frames 0"),
        ({"steps": 0}, "steps 0"),
        ({"cfg_scale": float("nan")}, "cfg_scale nan"),
        ({"shift": 0.0}, "shift 0.0"),
    ],
)
def test_impossible_protocols_are_refused(changes: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        FlowProtocol(**changes)


def test_a_protocol_is_plain_data() -> None:
    assert FlowProtocol(**PROTOCOL.to_dict()) == PROTOCOL
    assert FlowProtocol(frames=8, shift=2.5).to_dict()["shift"] == 2.5


@pytest.mark.parametrize(("frames", "height", "width"), [(51, 240, 426), (1, 512, 512), (20, 144, 256)])
def test_the_clip_of_a_latent_model_is_the_vaes(frames: int, height: int, width: int) -> None:
    protocol = FlowProtocol(frames=frames, height=height, width=width)
    assert clip_size(STDIT3_XL_2, protocol) == VideoVAEConfig().latent_size(frames, height, width)


def test_a_model_of_pixels_makes_the_clip_itself() -> None:
    config = dataclasses.replace(TINY_VIDEO, pixels_per_cell=1)
    assert clip_size(config, FlowProtocol(frames=8, height=16, width=12, shift=1.0)) == (8, 16, 12)


def test_a_correction_takes_a_known_error_out_of_every_step() -> None:
    """Slope and bias of an error that is exactly linear in the velocity: the corrected clip is the exact one's."""
    model = random_stdit3()
    _, _, text, mask = video_inputs()
    exact = guided_velocity(model, text, mask, PROTOCOL)
    steps = PROTOCOL.steps
    slope, bias = 0.1 * torch.arange(steps), torch.arange(3 * steps).reshape(steps, 3) / 10
    correction = NoiseCorrection(slope=slope, bias=bias, residual=torch.ones(steps))
    numbers = {float(torch.tensor(t)): number for number, t in enumerate(PROTOCOL.timesteps.astype("float32"))}

    def wrong(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        number = numbers[float(timestep[0])]
        return (1 + slope[number]) * exact(x, timestep) + bias[number][:, None, None, None]

    noise = initial_noise((3, 3, 4, 6), PROTOCOL.seed, [0, 1, 2])
    expected = sample_flow(exact, noise, PROTOCOL.timesteps)
    found = sample_flow(wrong, noise, PROTOCOL.timesteps, correction=correction)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (sample_flow(wrong, noise, PROTOCOL.timesteps) - expected).abs().max() > 0.1
