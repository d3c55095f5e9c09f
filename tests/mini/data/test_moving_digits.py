"""The world of moving digits: functions of (seed, index), what prompts say is what clips show, held-out digits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.mini.data.moving_digits import (
    FRAMES,
    GLYPH,
    GLYPHS,
    SIZE,
    STEP,
    draw_placement,
    draw_scenario,
    glyphs,
    make_clips,
    render,
    show,
    stylize,
)
from qdit.mini.data.moving_digits_prompts import DIGITS, MOTIONS, RELATIONS, Scenario, motions_beside

STILL = Scenario(("2",), ("red",), None)


def clip(scenario, part="train"):
    """Pixels (3, 8, 16, 16) in [0, 1] of one clip."""
    return show([scenario], part, seed=0).frames[0].numpy() / 255


def test_a_clip_depends_on_seed_and_index_alone():
    together, alone = make_clips(0, range(3, 9), "train"), make_clips(0, range(5, 6), "train")
    assert torch.equal(together.frames[2], alone.frames[0])
    assert together.scenarios[2] == alone.scenarios[0] and together.placements[2] == alone.placements[0]
    other = make_clips(1, range(3, 9), "train")
    assert other.scenarios != together.scenarios
    assert together.frames.shape == (6, 3, FRAMES, SIZE, SIZE) and together.frames.dtype == torch.uint8


def test_all_of_the_world_is_drawn():
    drawn = [draw_scenario(0, index) for index in range(400)]
    for name in ("digits", "colours"):
        assert (
            len({value for scenario in drawn for value in getattr(scenario, name)}) == {"digits": 6, "colours": 4}[name]
        )
    for name, count in {"relation": 5, "motion": 5, "tempo": 3, "scene": 4, "style": 3}.items():
        assert len({getattr(scenario, name) for scenario in drawn}) == count
    for scenario in drawn:
        assert scenario.motion in motions_beside(scenario.relation)
        assert len(scenario.digits) == len(scenario.colours) == (1 if scenario.relation is None else 2)


def test_digits_never_leave_the_frame_nor_cover_each_other():
    for index in range(400):
        scenario = draw_scenario(0, index)
        placement = draw_placement(scenario, 0, index, variants=8, jitter=1)
        step = np.array(STEP[scenario.motion])
        corners = np.array(placement.corners)
        for frame in range(FRAMES):
            now = corners + frame * step
            assert now.min() >= 0 and now.max() <= SIZE - GLYPH
        if scenario.relation is not None:
            gap = corners[0] - corners[1]
            axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[scenario.relation]
            assert gap[axis] == sign * GLYPH and gap[1 - axis] == 0


def test_parts_share_no_digit():
    train, held_out = (
        {image.tobytes() for digit in DIGITS for image in glyphs(part, 60 if part == "train" else 12)[digit]}
        for part in ("train", "held_out")
    )
    assert len(train) > 350 and len(held_out) > 60
    assert not train & held_out
    assert {part: len(glyphs(part)["0"]) for part in GLYPHS} == GLYPHS
    with pytest.raises(ConfigError, match="allowed are train, held_out"):
        glyphs("all")


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_digit_moves_one_pixel_a_frame_the_way_it_is_told(motion):
    frames = clip(replace(STILL, motion=motion))[0] - clip(replace(STILL, motion=motion))[2]  # red minus blue: no grey
    weight = np.maximum(frames, 0)
    down, across = np.mgrid[:SIZE, :SIZE]
    centres = np.array([[(frame * across).sum(), (frame * down).sum()] / frame.sum() for frame in weight])
    assert np.allclose(np.diff(centres, axis=0), STEP[motion], atol=0.05)


def test_tempo_is_visibility():
    def ink(tempo):
        frames = clip(replace(STILL, tempo=tempo))
        return (frames[0] - frames[2]).sum(axis=(1, 2))

    steady = ink("steady")
    assert np.allclose(ink("blinking") / steady, [1, 1, 0, 0, 1, 1, 0, 0], atol=0.02)
    assert np.allclose(ink("fading") / steady, np.arange(8) / 7, atol=0.02)


def test_styles_are_functions_of_the_pixels():
    normal = clip(STILL)
    assert np.allclose(clip(replace(STILL, style="negative")), 1 - normal, atol=2 / 255)
    sepia = clip(replace(STILL, style="sepia"))
    assert np.allclose(sepia[1], 0.78 * sepia[0], atol=2 / 255) and np.allclose(sepia[2], 0.5 * sepia[0], atol=2 / 255)
    assert stylize(normal, "normal") is normal


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_first_object_stands_where_the_prompt_says(relation):
    scenario = Scenario(("0", "1"), ("red", "blue"), relation)
    frames = clip(scenario)
    down, across = np.mgrid[:SIZE, :SIZE]
    red, blue = (np.maximum(frames[a, 0] - frames[b, 0], 0) for a, b in ((0, 2), (2, 0)))
    gap = [(red * axis).sum() / red.sum() - (blue * axis).sum() / blue.sum() for axis in (across, down)]
    expected = {"left": (-8, 0), "right": (8, 0), "above": (0, -8), "below": (0, 8)}[relation]
    assert np.allclose(gap, expected, atol=1.5)


def test_opacity_mixes_background_and_colour():
    shapes = {"2": np.full((1, 8, 8), 0.5)}
    placement = draw_placement(STILL, 0, 0, variants=1)
    frames = render(STILL, placement, shapes)
    x, y = placement.corners[0]
    assert frames[0, 0, y, x] == round(255 * (0.08 + 0.95) / 2) and frames[0, 0, 0, 0] == round(255 * 0.08)
