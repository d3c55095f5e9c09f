"""`qdit bench sampling`: sampling time of quantized models in both modes, compared with full precision."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench.goals import Goal, Judged
from qdit.bench.modes import EAGER, FULL, INTEGER, MODES, PLAIN, SIMULATED, in_mode, random_model
from qdit.bench.record import ending, heading, judged_of, load, record, single_thread, verdicts
from qdit.bench.timing import Timing, interleaved
from qdit.models.config import DiTConfig
from qdit.sampling.batch import sample_images
from qdit.sampling.protocol import Protocol

MINI = DiTConfig(input_size=8, in_channels=1, hidden_size=144, depth=7, num_heads=6, num_classes=10)
WIDE = DiTConfig(input_size=16, in_channels=1, hidden_size=192, depth=4, num_heads=6, num_classes=10)
BLOCK = DiTConfig(depth=1)
"""The mini profile's model; a DiT of width 192 with 64 tokens; one block of DiT-XL/2."""


@dataclass(frozen=True)
class Subject:
    """A model to time, with its group size. One call samples `batch` images in `steps` steps.

    With `block_only` a call is one forward pass of one block.
    """

    name: str
    config: DiTConfig
    group_size: int
    batch: int
    steps: int
    block_only: bool = False


SUBJECTS = (
    Subject("mini model (width 144, 16 tokens, g16)", MINI, 16, 32, 2),
    Subject("DiT of width 192 (64 tokens, g32)", WIDE, 32, 16, 2),
    Subject("one DiT-XL/2 block (256 tokens, g128)", BLOCK, 128, 2, 1, block_only=True),
)
TINY = DiTConfig(input_size=8, in_channels=1, hidden_size=48, depth=1, num_heads=2, num_classes=10)
QUICK = (Subject("tiny", TINY, 16, 2, 1), Subject("tiny block", TINY, 16, 2, 1, block_only=True))


def measure(command: str, *, subjects: tuple[Subject, ...] = SUBJECTS, repeats: int = 9) -> dict[str, Any]:
    """Time every model in every mode, compare with the goals, and return the record."""
    single_thread()
    before = load()
    by_subject = {subject.name: measured_modes(subject, repeats) for subject in subjects}
    goals = [judged for subject in subjects for judged in _judge(subject, by_subject[subject.name])]
    return record(
        "sampling",
        command,
        load_before=before,
        measured={name: {mode: t.to_dict() for mode, t in timings.items()} for name, timings in by_subject.items()},
        goals=[judged.to_dict() for judged in [*goals, *_judge_gpu()]],
    )


def measured_modes(subject: Subject, repeats: int) -> dict[str, Timing]:
    """CPU seconds of one call of a model, by mode."""
    model = random_model(subject.config)
    with torch.inference_mode():
        return interleaved(
            {mode: _call(subject, in_mode(model, mode, group_size=subject.group_size)) for mode in MODES}, repeats
        )


def _call(subject: Subject, model: Any) -> Callable[[], object]:
    if not subject.block_only:
        return partial(sample_images, model, Protocol(steps=subject.steps), range(subject.batch))
    generator = torch.Generator().manual_seed(0)
    width = subject.config.hidden_size
    tokens = torch.randn(subject.batch, subject.config.tokens, width, generator=generator)
    return partial(model.blocks[0], tokens, torch.randn(subject.batch, width, generator=generator))


def _judge(subject: Subject, timings: dict[str, Timing]) -> Iterable[Judged]:
    """Against the suite's own full precision, and against torch's linears, with which the goals were set."""
    for rival, name in ((FULL, FULL), (PLAIN, "torch's full precision")):
        yield from _judge_against(subject, timings, timings[rival], name)


def _judge_against(subject: Subject, timings: dict[str, Timing], full: Timing, rival: str) -> Iterable[Judged]:

    def judged(goal: Goal, mode: str, *, faster: bool) -> Judged:
        timing = timings[mode]
        if faster:
            return Judged.measured(goal, full.minimum / timing.minimum, full.median / timing.median)
        return Judged.measured(goal, timing.minimum / full.minimum, timing.median / full.median)

    if subject.block_only:
        yield judged(Goal(f"{subject.name}: {rival} ÷ integer", 2.0, 2.5), INTEGER, faster=True)
    elif subject.config == MINI:
        yield judged(Goal(f"{subject.name}: integer ÷ {rival}", 1.0, at_most=True), INTEGER, faster=False)
    else:
        goals = ((SIMULATED, 1.25, 1.15), (INTEGER, 0.90, 0.72))
        for mode, must, ambitious in goals:
            goal = Goal(f"{subject.name}: {mode} ÷ {rival}", must, ambitious, at_most=True)
            yield judged(goal, mode, faster=False)


def _judge_gpu() -> Iterable[Judged]:
    why = "needs a GPU: `qdit bench gpu` measures it"
    yield Judged.without(
        Goal("H200, simulated DiT-XL ÷ fp16, standalone", 1.20, 1.12, at_most=True), "not measured", why
    )
    yield Judged.without(Goal("H200, simulated DiT-XL ÷ fp16, fused", 1.08, 1.03, at_most=True), "not measured", why)


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: times divided by those of full precision, goals with verdicts, then missed goals."""
    lines = [
        *heading(content),
        "",
        "Time against full precision (its linears packed for oneDNN where torch has it):",
        "",
    ]
    rows = []
    for name, modes in content["measured"].items():
        full = modes[FULL]
        for mode, timing in modes.items():
            relative = timing["minimum"] / full["minimum"], timing["median"] / full["median"]
            before = modes[EAGER]["minimum"] / timing["minimum"]
            cells = [
                f"{1e3 * timing['minimum']:.1f}",
                *(f"{x:.2f}" for x in (*relative, before)),
                f"{timing['spread']:.0%}",
            ]
            rows.append([name if mode == FULL else "", mode, *cells])
    header = ["", "mode", "ms", "÷ full", "(medians)", "eager ÷ it", "spread"]
    align = ("left", "left", *["right"] * 5)
    lines += [tabulate(rows, header, tablefmt=style, colalign=align, disable_numparse=True), ""]
    judged = judged_of(content)
    return "\n".join([*lines, verdicts(judged, style=style), *ending(judged), ""])
