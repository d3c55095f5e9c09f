"""Measure how mini-VBench scores clips that were damaged on purpose.

docs/video.md shows the table, and a test repeats it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qdit.core.metrics import DIMENSIONS
from qdit.mini.vbench.degradations import blurred, noisy
from qdit.mini.vbench.evaluate import ClipSet, evaluate, means, noise_clips, reference_clips
from qdit.mini.vbench.observation import Observer
from qdit.mini.vbench.suites import all_prompts

SEED = 0
NOISE = 0.3
"""Standard deviation of the noise on the [−1, 1] scale."""
FLICKER = 0.2
"""Change of brightness of a frame, up or down, on the same scale."""
OTHER = 7
"""How many prompts further on the clips for wrong prompts are taken from."""

Damage = Callable[[Tensor, torch.Generator], Tensor]


def shuffled(clips: Tensor, draw: torch.Generator) -> Tensor:
    """Clips (N, 3, T, H, W) whose frames are in a random order."""
    return torch.stack([clip[:, torch.randperm(clip.shape[1], generator=draw)] for clip in clips])


def flickering(clips: Tensor, draw: torch.Generator) -> Tensor:
    """Clips (N, 3, T, H, W) in which each frame is made a little brighter or darker."""
    brighter = torch.randint(2, (len(clips), 1, clips.shape[2], 1, 1), generator=draw) * 2 - 1
    return (clips + FLICKER * brighter).clamp(-1, 1)


CASES: Mapping[str, Damage] = {
    "clean": lambda clips, _: clips,
    "noise": lambda clips, draw: noisy(clips, torch.full((len(clips),), NOISE), draw),
    "blur": lambda clips, _: blurred(clips, torch.ones(len(clips))),
    "flicker": flickering,
    "shuffle": shuffled,
    "frozen": lambda clips, _: clips[:, :, :1].expand_as(clips),
    "wrong prompts": lambda clips, _: clips.roll(OTHER, dims=0),
}
"""Case → what is done to real clips, pixels in [−1, 1]."""


def damage_table(observer: Observer) -> dict[str, dict[str, float]]:
    """Damage → dimension → score, for one clip of held-out digits per prompt.

    The last entry is for clips of pixel noise.
    """
    prompts = all_prompts()
    real = reference_clips(prompts, samples=1)
    pixels = real.frames.float() / 127.5 - 1

    def scores(clips: ClipSet) -> dict[str, float]:
        return means(evaluate(observer, clips, prompts, samples=1))

    table = {}
    for number, (case, damage) in enumerate(CASES.items()):
        damaged = damage(pixels, torch.Generator().manual_seed(SEED + number))
        frames = ((damaged + 1) * 127.5).round().to(torch.uint8)
        table[case] = scores(ClipSet(frames, real.prompts, real.numbers))
    return table | {"pixel noise": scores(noise_clips(real))}


def damage_markdown(table: Mapping[str, Mapping[str, float]]) -> str:
    """The table as Markdown: a row for each dimension, a column for each kind of damage."""
    lines = ["| dimension | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
    for dimension in DIMENSIONS:
        cells = [f"{scores[dimension]:.4f}" for scores in table.values()]
        lines.append(f"| {dimension.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
