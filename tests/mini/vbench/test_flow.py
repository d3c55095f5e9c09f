"""Block matching: shifts are found, standing still is preferred, midpoints are interpolated along the motion."""

import pytest
import torch

from qdit.mini.data.moving_digits import show
from qdit.mini.data.moving_digits_prompts import Scenario
from qdit.mini.vbench.flow import block_mean, flow_magnitude, midpoint_error, moved, speeds

generator = torch.Generator().manual_seed(0)
TEXTURE = torch.rand(1, 3, 1, 40, 40, generator=generator)


def drifting(down, across, frames=5):
    """A random texture that moves by (down, across) pixels a frame, seen through a 16×16 window."""
    cuts = [TEXTURE[..., 12 - t * down : 28 - t * down, 12 - t * across : 28 - t * across] for t in range(frames)]
    return torch.cat(cuts, dim=2)


def test_moved_against_indexing():
    frame = torch.arange(25.0).view(1, 1, 5, 5)
    found = moved(frame, 1, -2)
    for y in range(5):
        for x in range(5):
            assert found[0, 0, y, x] == frame[0, 0, min(max(y + 1, 0), 4), min(max(x - 2, 0), 4)]


def test_block_mean_of_a_border_counts_only_what_is_there():
    ones = torch.ones(1, 1, 6, 6)
    assert torch.allclose(block_mean(ones), ones)


@pytest.mark.parametrize(("down", "across", "speed"), [(0, 0, 0), (1, 0, 1), (0, -2, 2), (2, 1, 5**0.5)])
def test_the_speed_of_a_texture_is_found(down, across, speed):
    inside = speeds(drifting(down, across))[..., 5:-5, 5:-5]  # at the edges, texture leaves or enters
    assert torch.allclose(inside, torch.tensor(float(speed)))


def test_the_fastest_pixels_count():
    half = torch.cat([drifting(0, 0)[..., :8], drifting(0, 1)[..., 8:]], dim=-1)
    fastest = speeds(half).flatten(2).sort(dim=-1, descending=True).values[..., :13]  # 5 % of 256
    torch.testing.assert_close(flow_magnitude(half), fastest.mean(dim=-1))


def test_a_still_clip_has_no_flow_and_no_error():
    still = drifting(0, 0)
    assert flow_magnitude(still).abs().max() == 0
    assert midpoint_error(still).abs().max() == 0
    assert midpoint_error(still).shape == (1, 2)


def test_interpolation_follows_the_motion():
    assert midpoint_error(drifting(0, 1)).max() < 0.06  # only the edges, where nothing is known, are wrong
    shuffled = drifting(0, 1)[:, :, [0, 3, 1, 4, 2]]
    assert midpoint_error(shuffled).min() > 2 * midpoint_error(drifting(0, 1)).max()


@pytest.mark.parametrize("motion", ["left", "right", "up", "down", "still"])
def test_digits_move_one_pixel_a_frame(motion):
    clip = show([Scenario(("2",), ("red",), None, motion)], "train", seed=0).frames.float() / 255
    expected = 0.0 if motion == "still" else 1.0
    assert torch.allclose(flow_magnitude(clip), torch.tensor(expected), atol=0.3)
