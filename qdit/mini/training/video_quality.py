"""Quality of a mini video model: scores of mini-VBench for its clips, and for clips of held-out digits.

It is measured once for the published weights, and stored as JSON with machine, commit and command.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from qdit.core.files import atomic_path, sha256_file, write_json
from qdit.core.pixels import to_uint8
from qdit.core.provenance import commit, machine, packages
from qdit.mini.data.moving_digits import FPS, FRAMES, SIZE, draw_scenario, show
from qdit.mini.data.moving_digits_prompts import PLACES, Scenario, encode, prompt_of
from qdit.mini.training.video_shipping import has_places, load_video_model
from qdit.mini.vbench.evaluate import ClipSet, mfvd, report
from qdit.mini.vbench.observation import Observation, Observer, load_observer
from qdit.mini.vbench.scores import SCORES
from qdit.mini.vbench.suites import SAMPLES, Prompt, all_prompts
from qdit.models.stdit3 import STDiT3
from qdit.sampling.batch import sample_clips
from qdit.sampling.flow_protocol import FlowProtocol

PROTOCOL = FlowProtocol(frames=FRAMES, height=SIZE, width=SIZE, fps=FPS, steps=15, cfg_scale=2.5, shift=2.5, seed=1)
"""Steps, guidance and shift of the mini video model."""
CLIPS = 200
BATCH = 25
BARS = {"object_class": 0.80, "color": 0.85, "human_action": 0.80, "scene": 0.90}
"""Least score of the model's clips, as a fraction of the score of real clips."""
SCENARIO_SEED, REAL_SEED = 11, 12
SHOWN = 12
ENLARGED = 6
GAP = 2


def sample(
    model: STDiT3, scenarios: Sequence[Scenario], protocol: FlowProtocol = PROTOCOL, *, places: bool = PLACES
) -> Tensor:
    """Sample one clip for each scenario: uint8 (N, 3, 8, 16, 16). The noise of clip i depends on (protocol.seed, i).

    With `places`, the vectors of an object's words also say on which side it stands (`moving_digits_prompts.encode`).
    """
    parts = []
    for start in tqdm(range(0, len(scenarios), BATCH), desc="clips", unit="batch", mininterval=5):
        rows = range(start, min(start + BATCH, len(scenarios)))
        text, mask = encode(tuple(scenarios[row] for row in rows), places=places)
        pixels = sample_clips(model, protocol, text, mask.bool(), list(rows))
        parts.append(to_uint8(pixels))
    return torch.cat(parts)


def clips_for(model: STDiT3, prompts: Sequence[Prompt], samples: int, *, places: bool = PLACES) -> ClipSet:
    """Sample a model's clips for the prompts of a suite, `samples` clips of each prompt."""
    wanted = [prompt for prompt in prompts for _ in range(samples)]
    frames = sample(model, [prompt.scenario for prompt in wanted], replace(PROTOCOL, seed=2), places=places)
    return ClipSet(frames, tuple(prompt.text for prompt in wanted), tuple(range(samples)) * len(prompts))


def generated_clips(weights: Path, prompts: Sequence[Prompt], samples: int) -> ClipSet:
    """Load a weights file or a checkpoint, and sample `samples` clips of each prompt."""
    return clips_for(load_video_model(weights), prompts, samples, places=has_places(weights))


def drawn_scenarios(count: int = CLIPS) -> list[Scenario]:
    """Draw scenarios with one digit, steady and in the normal style.

    The four scores with a required minimum use them.
    """
    scenarios: list[Scenario] = []
    index = 0
    while len(scenarios) < count:
        scenario = draw_scenario(SCENARIO_SEED, index)
        index += 1
        if len(scenario.digits) == 1:
            scenarios.append(replace(scenario, tempo="steady", style="normal"))
    return scenarios


def mean_scores(observer: Observer, clips: Tensor, scenarios: Sequence[Scenario]) -> dict[str, float]:
    """Mean over clips of each of the four scores that have a required minimum."""
    observations = observer(clips)
    return {name: mean_score(name, observations, scenarios) for name in BARS}


def mean_score(name: str, observations: Sequence[Observation], scenarios: Sequence[Scenario]) -> float:
    """Mean over clips of a score that needs no prompt embedding. Clips that the score skips do not count."""
    none = np.zeros(0)
    values = [SCORES[name](clip, scenario, none) for clip, scenario in zip(observations, scenarios, strict=True)]
    scored = [value for value in values if value is not None]
    return float(np.mean(scored)) if scored else 0.0


def measure(
    model: STDiT3, observer: Observer, *, count: int = CLIPS, full: bool = True, places: bool = PLACES
) -> tuple[dict[str, Any], Tensor]:
    """Measure the quality of a model. Return the values, and its clips for `drawn_scenarios`.

    `full` adds the scores on mini-VBench's prompt suites, and mFVD.
    """
    scenarios = drawn_scenarios(count)
    clips, real = sample(model, scenarios, places=places), show(scenarios, "held_out", seed=REAL_SEED).frames
    ours, theirs = (mean_scores(observer, frames, scenarios) for frames in (clips, real))
    figures: dict[str, Any] = {
        "clips": count,
        "protocol": PROTOCOL.to_dict(),
        "scores": ours,
        "scores_of_real_clips": theirs,
        "fractions": {name: ours[name] / theirs[name] for name in BARS},
        "bars": BARS,
    }
    if full:
        prompts = all_prompts()
        scored = report(observer, clips_for(model, prompts, SAMPLES, places=places), prompts)
        figures["mini_vbench"] = {key: scored[key] for key in ("protocol", "clips", "scores", "totals", "real_clips")}
        again = show(scenarios, "held_out", seed=REAL_SEED + 1).frames
        figures["mfvd"] = {"clips": mfvd(observer, clips, real), "other_real_clips": mfvd(observer, again, real)}
    return figures, clips


def measure_video_files(
    weights: Path, instruments: Path, out: Path, *, picture: Path | None, command: str, count: int = CLIPS
) -> dict[str, float]:
    """Measure a weights file or checkpoint. Write the values as JSON, and clips as an animation to `picture`.

    Return the four scores with a required minimum, each divided by the score of clips of held-out digits.
    """
    model, observer = load_video_model(weights), load_observer(instruments)
    figures, clips = measure(model, observer, count=count, places=has_places(weights))
    study = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
        "weights": {"file": weights.name, "sha256": sha256_file(weights)},
        "instruments": {"file": instruments.name, "sha256": sha256_file(instruments)},
        "figures": figures,
    }
    write_json(out, study)
    if picture is not None:
        animate(clips[:SHOWN], picture)
    fractions: dict[str, float] = figures["fractions"]
    return fractions


def animate(clips: Tensor, path: Path, *, columns: int = 6) -> None:
    """Write clips uint8 (N, 3, T, H, W) side by side as a looping GIF, with each pixel enlarged."""
    frames = clips.permute(2, 0, 3, 4, 1).numpy()
    padded = np.pad(frames, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    rows = [
        np.concatenate(list(row), axis=2)
        for row in (padded[:, start : start + columns].swapaxes(0, 1) for start in range(0, len(clips), columns))
    ]
    sheet = np.concatenate(rows, axis=1).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    pictures = [Image.fromarray(frame) for frame in sheet]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary, format="gif", save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0
        )


def show_real(path: Path) -> list[str]:
    """Write an animation of clips of held-out digits. Return their prompts, row by row."""
    scenarios = [draw_scenario(SCENARIO_SEED, index) for index in range(SHOWN)]
    animate(show(scenarios, "held_out", seed=REAL_SEED).frames, path)
    return [prompt_of(scenario) for scenario in scenarios]
