"""Clips of the mini video model: one or two coloured digits move over a background. A prompt describes each clip.

A clip has 8 frames of 16×16 pixels. It depends only on a seed and the number of the clip. The digits are scikit-learn's
8×8 images (*glyphs*), not magnified. So two digits fit side by side and can still move across the frame. Held-out clips
contain glyphs that no other clip contains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.core.seeds import Purpose, generator
from qdit.mini.data.digits import load
from qdit.mini.data.labelled import Part
from qdit.mini.data.moving_digits_prompts import (
    COLOURS,
    DIGITS,
    RELATIONS,
    SCENES,
    STYLES,
    TEMPOS,
    Scenario,
    motions_beside,
)

FRAMES = 8
SIZE = 16
"""Side of a frame in pixels."""
GLYPH = 8
"""Side of a digit in pixels."""
FPS = 8
GLYPHS = {"train": 8, "held_out": 4}
"""Glyphs of each digit in a part of the world: the nearest to the mean of the digit's training images."""
TWO_OBJECTS = 0.5
"""Fraction of clips with two digits."""
PLAIN = 0.5
"""Fraction of clips without a tempo, and without a style."""

RGB = {"red": (0.95, 0.15, 0.15), "green": (0.1, 0.85, 0.2), "blue": (0.2, 0.4, 1.0), "yellow": (1.0, 0.9, 0.1)}
DARK, BRIGHT = 0.08, 0.34
"""The two greys of a background."""
SEPIA = (1.0, 0.78, 0.5)
LUMA = (0.299, 0.587, 0.114)
VISIBLE = {"steady": (1,) * 8, "blinking": (1, 1, 0, 0, 1, 1, 0, 0), "fading": tuple(i / 7 for i in range(8))}
"""Opacity of the digits in each frame, by tempo."""
STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Pixels per frame, across and down."""


@dataclass(frozen=True)
class Placement:
    """Random choices that a prompt leaves open: the glyph of each digit, and its corner (across, down) in frame 0."""

    glyphs: tuple[int, ...]
    corners: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Clips:
    """Clips, uint8 frames (N, 3, 8, 16, 16), with the scenario and the placement of each clip."""

    frames: Tensor
    scenarios: tuple[Scenario, ...]
    placements: tuple[Placement, ...]

    def __len__(self) -> int:
        return len(self.scenarios)


@cache
def glyphs(split: Part, count: int | None = None) -> dict[str, np.ndarray]:
    """Digit → its `count` most typical images in one part of scikit-learn's digits.

    An image holds opacities (8, 8) in [0, 1].
    """
    if split not in GLYPHS:
        raise ConfigError(f"part {split!r} of the moving digits: allowed are {', '.join(GLYPHS)}")
    train, part_digits = load("train"), load(split)
    by_digit = {}
    for digit in DIGITS:
        mean = train.images[train.labels == int(digit)].mean(dim=0)
        images = part_digits.images[part_digits.labels == int(digit)]
        order = (images - mean).square().sum(dim=(1, 2, 3)).argsort(stable=True)
        by_digit[digit] = (images[order[: count or GLYPHS[split]], 0].numpy() + 1) / 2
    return by_digit


def draw_scenario(seed: int, index: int, *, two_objects: float = TWO_OBJECTS) -> Scenario:
    """Draw the scenario (content of the prompt) of clip number `index` at random.

    It has two digits with probability `two_objects`.
    """
    draw = generator(seed, Purpose.VARIANT, 0, index)

    def one(of: tuple[str, ...]) -> str:
        return of[draw.integers(len(of))]

    count = 2 if draw.random() < two_objects else 1
    digits = tuple(one(DIGITS) for _ in range(count))
    colours = tuple(one(COLOURS) for _ in range(count))
    relation = one(RELATIONS) if count == 2 else None
    return Scenario(
        digits=digits,
        colours=colours,
        relation=relation,
        motion=one(motions_beside(relation)),
        tempo="steady" if draw.random() < PLAIN else one(TEMPOS[1:]),
        scene=one(SCENES),
        style="normal" if draw.random() < PLAIN else one(STYLES[1:]),
    )


def draw_placement(scenario: Scenario, seed: int, index: int, *, variants: int, jitter: int = 0) -> Placement:
    """Draw the glyphs and the corners of the digits in clip number `index` at random.

    A moving digit crosses the middle of the frame and starts at one of two pixels. Two digits stand at opposite edges.
    Because there are so few positions, a small model learns not only motion and colour, but also digits. `variants` is
    the number of glyphs of a digit to choose from. `jitter` is the largest distance from the middle, in pixels.
    """
    draw = generator(seed, Purpose.VARIANT, 1, index)
    glyph_numbers = tuple(int(draw.integers(variants)) for _ in scenario.digits)
    middle, room = (SIZE - GLYPH) // 2, SIZE - GLYPH - (FRAMES - 1)
    first = int(draw.integers(room + 1))
    missed = draw.integers(-jitter, jitter + 1, 2)
    corner = [
        {0: middle + int(miss), 1: first, -1: SIZE - GLYPH - first}[step]
        for step, miss in zip(STEP[scenario.motion], missed, strict=True)
    ]
    corners = [corner]
    if scenario.relation is not None:
        axis = 0 if scenario.relation in ("left", "right") else 1
        before, after = list(corner), list(corner)
        before[axis], after[axis] = 0, SIZE - GLYPH
        corners = [before, after]
        if scenario.relation in ("right", "below"):
            corners.reverse()
    return Placement(glyph_numbers, tuple((x, y) for x, y in corners))


@cache
def background(scene: str) -> np.ndarray:
    """Grey levels (16, 16) of a background. Its pattern repeats every 4 or 8 pixels."""
    down, across = np.mgrid[:SIZE, :SIZE]
    bright = {
        "plain": np.zeros((SIZE, SIZE), bool),
        "striped": down % 4 < 2,
        "checkered": (down // 4 + across // 4) % 2 == 1,
        "dotted": (down % 4 == 1) & (across % 4 == 1),
    }[scene]
    return np.where(bright, BRIGHT, DARK)


def render(scenario: Scenario, placement: Placement, shapes: dict[str, np.ndarray]) -> np.ndarray:
    """Draw the frames of one clip, uint8 (3, 8, 16, 16). `shapes` are the glyphs of each digit."""
    frames = np.broadcast_to(background(scenario.scene), (3, FRAMES, SIZE, SIZE)).copy()
    step_x, step_y = STEP[scenario.motion]
    for digit, colour, glyph, (x, y) in zip(
        scenario.digits, scenario.colours, placement.glyphs, placement.corners, strict=True
    ):
        rgb = np.array(RGB[colour])[:, None, None]
        for frame, visible in enumerate(VISIBLE[scenario.tempo]):
            left, top = x + frame * step_x, y + frame * step_y
            opacity = visible * shapes[digit][glyph]
            window = frames[:, frame, top : top + GLYPH, left : left + GLYPH]
            window += opacity * (rgb - window)
    return np.rint(255 * stylize(frames, scenario.style)).astype(np.uint8)


def stylize(frames: np.ndarray, style: str) -> np.ndarray:
    """Apply a style (normal, negative or sepia) to frames (3, …) in [0, 1]."""
    if style == "negative":
        return 1 - frames
    if style == "sepia":
        return np.tensordot(np.outer(SEPIA, LUMA), frames, axes=1)
    return frames


def show(
    scenarios: Sequence[Scenario],
    split: Part,
    *,
    seed: int,
    first: int = 0,
    variants: int | None = None,
    jitter: int = 0,
) -> Clips:
    """Make one clip for each scenario. The glyphs and positions of clip i depend only on (seed, first + i).

    `variants` is the number of glyphs of each digit to choose from; the default depends on `split`. `jitter` is
    explained at `draw_placement`.
    """
    shapes = glyphs(split, variants)
    count = len(next(iter(shapes.values())))
    placements, frames = [], torch.empty(len(scenarios), 3, FRAMES, SIZE, SIZE, dtype=torch.uint8)
    for row, scenario in enumerate(scenarios):
        placements.append(draw_placement(scenario, seed, first + row, variants=count, jitter=jitter))
        frames[row] = torch.from_numpy(render(scenario, placements[-1], shapes))
    return Clips(frames, tuple(scenarios), tuple(placements))


def make_clips(
    seed: int,
    indices: range,
    split: Part,
    *,
    variants: int | None = None,
    jitter: int = 0,
    two_objects: float = TWO_OBJECTS,
) -> Clips:
    """Draw and make the clips with these numbers. A clip depends only on the seed and its own number."""
    scenarios = [draw_scenario(seed, index, two_objects=two_objects) for index in indices]
    return show(scenarios, split, seed=seed, first=indices.start, variants=variants, jitter=jitter)
