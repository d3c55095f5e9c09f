"""Score a set of clips with mini-VBench: sixteen scores and three totals, in the format of VBench's result JSON.

A clip is identified by its prompt and number, as in VBench's file name "prompt-0.mp4". If a clip of the prompts is
missing, nothing is scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, save_arrays
from qdit.core.metrics import DIMENSIONS
from qdit.core.mp4 import read_mp4, write_mp4
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.metrics.vbench_totals import scaled_between, totals
from qdit.mini.data.moving_digits import FPS, FRAMES, SIZE, show
from qdit.mini.vbench.observation import PROTOCOL, Observation, Observer, require_clips
from qdit.mini.vbench.scores import SCORES
from qdit.mini.vbench.suites import SAMPLES, Prompt

REFERENCE_SEED, NOISE_SEED = 5, 6


@dataclass(frozen=True)
class ClipSet:
    """Clips with names: frames uint8 (N, 3, 8, 16, 16), and the prompt and number of each clip."""

    frames: Tensor
    prompts: tuple[str, ...]
    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        require_clips(self.frames)
        if not len(self.frames) == len(self.prompts) == len(self.numbers):
            raise DataError(
                f"clips: {len(self.frames)} clips with {len(self.prompts)} prompts and {len(self.numbers)} numbers;"
                " write one of each per clip"
            )

    def save(self, path: Path) -> None:
        """Write one npz file, or, if `path` has no suffix, a folder of lossless MP4 files `<prompt>-<number>.mp4`.

        DataError for another suffix, such as `.mp4`: the file would hold something else than its name says.
        """
        if path.suffix not in ("", ".npz"):
            raise DataError(f"{path}: expected a name that ends in .npz, or a folder, whose name has no dot; rename it")
        if not path.suffix:
            for clip, prompt, number in zip(self.frames, self.prompts, self.numbers, strict=True):
                write_mp4(path / f"{prompt}-{number}.mp4", clip.permute(1, 2, 3, 0).numpy(), fps=FPS, lossless=True)
            return
        arrays = {"frames": self.frames.numpy(), "prompts": np.array(self.prompts), "numbers": np.array(self.numbers)}
        save_arrays(path, arrays)


def load_clips(path: Path) -> ClipSet:
    """Read clips that `ClipSet.save` wrote. DataError, in one line, for anything else."""
    if path.is_dir():
        return load_mp4s(path)
    arrays = load_arrays(path)
    if missing := {"frames", "prompts", "numbers"} - set(arrays):
        raise DataError(f"{path}: has no {', '.join(sorted(missing))}; write the clips with qdit video clips")
    try:
        numbers = tuple(int(number) for number in arrays["numbers"])
        return ClipSet(torch.from_numpy(arrays["frames"]), tuple(map(str, arrays["prompts"])), numbers)
    except (TypeError, ValueError) as problem:
        raise DataError(f"{path}: not a set of clips ({problem}); write the clips with qdit video clips") from None
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None


def load_mp4s(folder: Path) -> ClipSet:
    """Read a folder of MP4 files that are named `<prompt>-<number>.mp4`, as in VBench."""
    named = {path: path.stem.rpartition("-") for path in sorted(folder.glob("*.mp4"))}
    if not named:
        raise DataError(f"{folder}: holds no MP4 files, at least one is needed; write them with qdit video clips")
    for path, (prompt, _, number) in named.items():
        if not prompt or not number.isdecimal():
            raise DataError(f"{path}: the name is not '<prompt>-<number>.mp4', as VBench names clips; rename it")
    frames = [torch.from_numpy(read_mp4(path, frames=FRAMES)).permute(3, 0, 1, 2) for path in named]
    for path, clip in zip(named, frames, strict=True):
        if clip.shape[2:] != (SIZE, SIZE):
            raise DataError(f"{path}: frames are {tuple(clip.shape[2:])}, allowed is ({SIZE}, {SIZE}); sample it again")
    names = named.values()
    return ClipSet(torch.stack(frames), tuple(name[0] for name in names), tuple(int(name[2]) for name in names))


def reference_clips(prompts: Sequence[Prompt], *, samples: int = SAMPLES, seed: int = REFERENCE_SEED) -> ClipSet:
    """Make clips of held-out digits for the prompts. They are from the data set, so no model can make better ones."""
    wanted = [prompt for prompt in prompts for _ in range(samples)]
    clips = show([prompt.scenario for prompt in wanted], "held_out", seed=seed)
    return ClipSet(clips.frames, tuple(prompt.text for prompt in wanted), tuple(range(samples)) * len(prompts))


def noise_clips(like: ClipSet) -> ClipSet:
    """Make clips of uniform pixel noise with the names of the clips of `like`: the worst possible clips."""
    draw = torch.Generator().manual_seed(NOISE_SEED)
    frames = torch.randint(256, like.frames.shape, generator=draw, dtype=torch.uint8)
    return ClipSet(frames, like.prompts, like.numbers)


def chosen_clips(clips: ClipSet, prompts: Sequence[Prompt], samples: int) -> Tensor:
    """Select the clips 0 … samples − 1 of each prompt. DataError if a clip is missing or occurs twice."""
    rows: dict[tuple[str, int], int] = {}
    for row, name in enumerate(zip(clips.prompts, clips.numbers, strict=True)):
        if name in rows:
            raise DataError(f"clips: {name[0]!r} number {name[1]} is there twice; write each clip once")
        rows[name] = row
    wanted = [(prompt.text, number) for prompt in prompts for number in range(samples)]
    if absent := [name for name in wanted if name not in rows]:
        raise DataError(
            f"clips: {len(absent)} of {len(wanted)} are missing, first {absent[0][0]!r} number {absent[0][1]}; sample"
            " them, nothing is scored on fewer"
        )
    return clips.frames[[rows[name] for name in wanted]]


def evaluate(
    observer: Observer, clips: ClipSet, prompts: Sequence[Prompt], *, samples: int = SAMPLES
) -> dict[str, Any]:
    """Compute the sixteen scores: {dimension: [score, [{video_path, video_results}, …]]}.

    This is the form of VBench's eval_results JSON. A dimension without prompts is left out. If all clips of a dimension
    are skipped, its score is 0. A clip is skipped for example if it shows no digit that could have a colour.
    """
    observations = observer(chosen_clips(clips, prompts, samples))
    embeddings = observer.of_prompts([prompt.scenario for prompt in prompts])
    results: dict[str, Any] = {}
    for dimension in DIMENSIONS:
        rows = [
            (
                f"{prompt.text}-{number}",
                score_of(dimension, observations[index * samples + number], prompt, embeddings[index]),
            )
            for index, prompt in enumerate(prompts)
            if dimension in prompt.dimensions
            for number in range(samples)
        ]
        scored = [value for _, value in rows if value is not None]
        if rows:
            mean = float(np.mean(scored)) if scored else 0.0
            results[dimension] = [mean, [{"video_path": name, "video_results": value} for name, value in rows]]
    return results


def score_of(dimension: str, observation: Observation, prompt: Prompt, embedding: np.ndarray) -> float | None:
    """Score of one clip in one dimension. `embedding` is that of the prompt."""
    return SCORES[dimension](observation, prompt.scenario, embedding)


def means(results: Mapping[str, Any]) -> dict[str, float]:
    """Dimension → score, from a result JSON that `evaluate` made."""
    return {dimension: float(value[0]) for dimension, value in results.items()}


def report(observer: Observer, clips: ClipSet, prompts: Sequence[Prompt], *, samples: int = SAMPLES) -> dict[str, Any]:
    """JSON with the scores and totals of the clips, and the scores of held-out clips and of noise clips.

    Totals are scaled so that noise clips give the worst and held-out clips the best value.
    """
    reference = reference_clips(prompts, samples=samples)
    best = means(evaluate(observer, reference, prompts, samples=samples))
    worst = means(evaluate(observer, noise_clips(reference), prompts, samples=samples))
    results = evaluate(observer, clips, prompts, samples=samples)
    scores = means(results)
    return {
        "protocol": PROTOCOL,
        "instruments": observer.digest,
        "prompts": len(prompts),
        "clips": len(prompts) * samples,
        "scores": scores,
        "totals": totals(scaled_between(scores, worst=worst, best=best)) if len(scores) == len(DIMENSIONS) else None,
        "real_clips": best,
        "pixel_noise": worst,
        "results": results,
    }


def mfvd(observer: Observer, clips: Tensor, others: Tensor) -> float:
    """mFVD: Fréchet distance of the clip features (96 values) of two sets of clips uint8 (N, 3, 8, 16, 16), N ≥ 2.

    It replaces FVD in the mini profile. Like FVD, it is also finite for fewer clips than features.
    """
    first, second = (moments(clip_features(observer, frames)) for frames in (clips, others))
    return frechet_distance(first, second)


def clip_features(observer: Observer, clips: Tensor) -> np.ndarray:
    """Features (N, 96) of clips uint8 (N, 3, 8, 16, 16), one vector for each clip."""
    return np.stack([observation.feature for observation in observer(clips)])
