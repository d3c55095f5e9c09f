"""What mini-VBench's networks see in clips, as plain arrays. The sixteen scores are computed from these arrays."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import load_tensors, one_line, require_finite, sha256_file
from qdit.mini.data.moving_digits import FRAMES, SIZE
from qdit.mini.data.moving_digits_prompts import COLOURS, DIGITS, Scenario, tokens_of
from qdit.mini.vbench.flow import flow_magnitude, midpoint_error
from qdit.mini.vbench.networks import FrameReading, Instruments
from qdit.models.manifest import check_file

PROTOCOL = "mini-VBench (moving digits)"
LEAST_OBJECTNESS = 0.01
"""Peaks of the objectness below this are no detections."""
TEMPERATURE = 3.0
"""Divisor of the logits of digits, colours, backgrounds, styles, motions and tempos.

It is the smallest whole number at which real clips keep 0.001 of room in each score of `scores.py` that uses them. No
clips of a model were used to choose it.
"""
BATCH = 64


@dataclass(frozen=True)
class Detection:
    """A place in a frame where an object may stand; `down` and `across` count cells.

    `digits` maps each digit to the probability that it stands here. These probabilities sum to the objectness: the
    probability that any digit stands here. `colours` maps each colour to its probability.
    """

    digits: Mapping[str, float]
    colours: Mapping[str, float]
    down: int
    across: int


@dataclass(frozen=True)
class Observation:
    """What the instruments see in one clip of T frames. It does not depend on the clip's prompt."""

    detections: tuple[tuple[Detection, ...], ...]
    """T frames"""
    subject: np.ndarray
    """(T, 64) trunk averaged over the objects, length one"""
    background: np.ndarray
    """(T, 64) trunk averaged over the rest, length one"""
    scenes: np.ndarray
    """(T, 4) probabilities"""
    styles: np.ndarray
    """(T, 3) probabilities"""
    motions: np.ndarray
    """(5,) probabilities"""
    tempos: np.ndarray
    """(3,) probabilities"""
    embedding: np.ndarray
    """(96,) length one, the space of prompts"""
    feature: np.ndarray
    """(96,) of mFVD"""
    aesthetic: np.ndarray
    """(T,) in [0, 1]"""
    quality: np.ndarray
    """(T,) in [0, 1]"""
    flow: np.ndarray
    """(T − 1,) mean of the fastest 5 % of pixels, in pixels per frame"""
    change: np.ndarray
    """(T − 1,) mean absolute difference of successive frames, pixels in [0, 1]"""
    midpoint: np.ndarray
    """Mean absolute error of each odd frame interpolated from its neighbours, pixels in [0, 1]"""


class Observer:
    """The instruments as a function from clips to observations. `load_observer` makes it."""

    def __init__(self, network: Instruments, digest: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.digest = digest

    def __call__(self, clips: Tensor) -> list[Observation]:
        """Observations of clips uint8 (N, 3, 8, 16, 16); DataError on anything else."""
        require_clips(clips)
        with torch.inference_mode():
            return [observation for batch in clips.split(BATCH) for observation in self.observe(batch)]

    def observe(self, clips: Tensor) -> list[Observation]:
        """Let the instruments see a batch of clips, and return one observation per clip."""
        x = clips.float() / 127.5 - 1
        count, frames = len(x), x.shape[2]
        flat = x.transpose(1, 2).flatten(0, 1)
        reading, clip = self.network.frames(flat), self.network.clips(x)
        objectness = reading.objectness.sigmoid()
        subject, background = pooled(reading.trunk, objectness), pooled(reading.trunk, 1 - objectness)
        aesthetic = self.network.aesthetic(reading.feature)[:, 0].sigmoid()
        quality = self.network.quality(flat).sigmoid()
        objects = detections(reading)
        unit = (x + 1) / 2
        change = (unit[:, :, 1:] - unit[:, :, :-1]).abs().mean(dim=(1, 3, 4))
        flow, midpoint = flow_magnitude(unit), midpoint_error(unit)

        def rows(values: Tensor, of_frames: bool = True) -> np.ndarray:
            shaped = values.unflatten(0, (count, frames)) if of_frames else values
            return shaped.double().numpy()

        scenes, styles = probabilities(reading.scenes), probabilities(reading.styles)
        per_frame = [rows(v) for v in (subject, background, scenes, styles, aesthetic, quality)]
        heads = (
            probabilities(clip.motions),
            probabilities(clip.tempos),
            clip.embedding,
            clip.feature,
            flow,
            change,
            midpoint,
        )
        per_clip = [rows(v, of_frames=False) for v in heads]
        return [
            Observation(
                tuple(objects[i * frames : (i + 1) * frames]),
                *(v[i] for v in per_frame[:4]),
                *(v[i] for v in per_clip[:4]),
                *(v[i] for v in per_frame[4:]),
                *(v[i] for v in per_clip[4:]),
            )
            for i in range(count)
        ]

    def of_prompts(self, scenarios: list[Scenario]) -> np.ndarray:
        """Embeddings (N, 96) of prompts, normalized to length one."""
        with torch.inference_mode():
            return self.network.clips.of_prompts([tokens_of(scenario) for scenario in scenarios]).double().numpy()


class CachingObserver(Observer):
    """An observer that keeps its results, so that the same clips are not computed twice within one evaluation."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer.network, observer.digest)
        self.seen: dict[bytes, list[Observation]] = {}

    def __call__(self, clips: Tensor) -> list[Observation]:
        """Observations of clips; clips that were seen before are read from memory."""
        require_clips(clips)
        digest = hashlib.sha256(clips.contiguous().numpy().tobytes()).digest()
        if digest not in self.seen:
            self.seen[digest] = super().__call__(clips)
        return self.seen[digest]


def require_clips(clips: Tensor) -> None:
    """Raise DataError unless these are clips of the moving digits: uint8 (N, 3, 8, 16, 16)."""
    shape = (3, FRAMES, SIZE, SIZE)
    if clips.ndim != 5 or tuple(clips.shape[1:]) != shape or clips.dtype != torch.uint8:
        raise DataError(
            f"clips: found {str(clips.dtype).removeprefix('torch.')} {tuple(clips.shape)}, allowed is uint8 (N, 3,"
            f" {FRAMES} frames, {SIZE}, {SIZE}); write the clips as the mini video model makes them"
        )


def pooled(trunk: Tensor, weight: Tensor) -> Tensor:
    """Sum (N, C) of features (N, C, h, w) with weights (N, h, w) over the cells, normalized to length one."""
    return F.normalize(torch.einsum("nchw,nhw->nc", trunk, weight), dim=1)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over dimension 1 at the instruments' temperature."""
    return (logits / TEMPERATURE).softmax(dim=1)


def detections(reading: FrameReading) -> list[tuple[Detection, ...]]:
    """Find the objects of each frame: cells whose objectness is the largest of the 3×3 cells around them."""
    score = reading.objectness.sigmoid()
    highest = F.max_pool2d(score[:, None], 3, stride=1, padding=1)[:, 0]
    digits, colours = score[:, None] * probabilities(reading.digits), probabilities(reading.colours)
    by_frame: list[list[Detection]] = [[] for _ in range(len(score))]
    for row, down, across in ((score == highest) & (score > LEAST_OBJECTNESS)).nonzero().tolist():
        by_digit, by_colour = (
            dict(zip(names, values[row, :, down, across].tolist(), strict=True))
            for names, values in ((DIGITS, digits), (COLOURS, colours))
        )
        by_frame[row].append(Detection(by_digit, by_colour, down, across))
    return [tuple(frame) for frame in by_frame]


def load_observer(path: Path, *, sha256: str | None = None) -> Observer:
    """Load the instruments, checked against `sha256` or the manifest.json in their folder.

    CheckpointError for other files.
    """
    check_file(path, sha256)
    tensors, _ = load_tensors(path)
    network = Instruments()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as problem:
        raise CheckpointError(
            f"{path}: not the instruments of mini-VBench ({one_line(problem)}); use weights/mini-vbench.safetensors or"
            " train them with qdit train instruments"
        ) from None
    for key, tensor in tensors.items():
        require_finite(f"{path}: {key}", tensor, error=CheckpointError)
    return Observer(network, sha256_file(path))
