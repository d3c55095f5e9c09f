"""Room of mini-VBench's scores: whether damage to the video model can lower them, or a score is 1 for all clips.

The damage is RTN at W4A4. It is compared with full precision on the clips of a row of Table 3, of the same noise. A
score has room if the 95 % interval of the paired difference excludes 0. No other method is run.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qdit.core.files import sha256_file, write_json
from qdit.core.intervals import interval
from qdit.core.metrics import DIMENSIONS
from qdit.core.pixels import to_uint8
from qdit.core.provenance import commit, machine, packages
from qdit.methods.quantize import quantize_model
from qdit.metrics.bootstrap import resampled_means
from qdit.mini.data.moving_digits import draw_scenario
from qdit.mini.data.moving_digits_prompts import encode
from qdit.mini.training.video_quality import PROTOCOL
from qdit.mini.training.video_shipping import has_places, load_video_model
from qdit.mini.vbench.evaluate import ClipSet, evaluate, reference_clips
from qdit.mini.vbench.observation import Observer, load_observer
from qdit.mini.vbench.run import clips_of_prompts
from qdit.mini.vbench.suites import Prompt, all_prompts
from qdit.models.stdit3 import STDiT3
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_clips
from qdit.sampling.calibration import collect
from qdit.sampling.flow_protocol import FlowProtocol

TABLE_PROTOCOL = replace(PROTOCOL, seed=0)
"""Protocol of Table 3."""
BITS = (4, 4)
"""Weight and activation bits of the damage."""
RESAMPLES = 2_000
REQUIRED = 12
"""Least number of dimensions that must have room."""
LEAST = {"spatial_relationship": 0.70}
"""Least scores of full precision."""


@dataclass(frozen=True)
class RoomPlan:
    """Clips of each prompt, clips of a batch, and clips and prompts of the calibration; the mini profile's values."""

    samples: int = 2
    chunk: int = 21
    calibration: int = 64
    calibration_prompts: int = 256
    calibration_seed: int = 31
    protocol: FlowProtocol = TABLE_PROTOCOL


@dataclass(frozen=True)
class Room:
    """Scores of one dimension: real clips, full precision, damaged; the paired difference and its 95 % interval."""

    real: float
    full: float
    damaged: float
    difference: float
    low: float
    high: float

    @property
    def is_there(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return self.low > 0 or self.high < 0


def clips_of(model: STDiT3, prompts: Sequence[Prompt], plan: RoomPlan, *, places: bool) -> ClipSet:
    """The clips of a row. The model must be prepared for inference."""
    names = clips_of_prompts(prompts, plan.samples)
    scenarios = [prompt.scenario for prompt in prompts for _ in range(plan.samples)]
    parts: list[Tensor] = []
    for start in tqdm(range(0, len(names), plan.chunk), desc="clips", unit="batch", mininterval=5):
        rows = range(start, min(start + plan.chunk, len(names)))
        text, mask = encode(tuple(scenarios[row] for row in rows), places=places)
        parts.append(to_uint8(sample_clips(model, plan.protocol, text, mask.bool(), rows)))
    return ClipSet(torch.cat(parts), *map(tuple, zip(*names, strict=True)))


def damaged(model: STDiT3, plan: RoomPlan, *, places: bool) -> STDiT3:
    """A copy of the model, quantized by RTN."""
    drawn = tuple(draw_scenario(plan.calibration_seed, index) for index in range(plan.calibration_prompts))
    text, mask = encode(drawn, places=places)
    data = collect(
        prepare_inference(deepcopy(model)),
        "trajectory",
        plan.protocol,
        samples=plan.calibration,
        text=(text, mask.bool()),
    )
    weight_bits, activation_bits = BITS
    quantized = quantize_model(
        model,
        "rtn",
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        calibration={"trajectory": data},
        options={},
    ).model
    assert isinstance(quantized, STDiT3)
    return quantized


def rooms(
    observer: Observer, full: ClipSet, worse: ClipSet, prompts: Sequence[Prompt], samples: int
) -> dict[str, Room]:
    """Dimension → its room. Both sets have the clips of these prompts."""
    real = reference_clips(prompts, samples=samples)
    scored = [evaluate(observer, clips, prompts, samples=samples) for clips in (real, full, worse)]

    def resampled(results: Mapping[str, Any], name: str) -> np.ndarray:
        values = [clip["video_results"] for clip in results[name][1]]
        return resampled_means(values, DIMENSIONS.index(name), RESAMPLES)

    by_dimension = {}
    for name in scored[0]:
        best, high, low = (results[name][0] for results in scored)
        ends = interval(resampled(scored[1], name) - resampled(scored[2], name))
        by_dimension[name] = Room(best, high, low, high - low, *ends)
    return by_dimension


def measure_room(
    model: STDiT3,
    observer: Observer,
    *,
    places: bool,
    plan: RoomPlan | None = None,
    prompts: Sequence[Prompt] | None = None,
) -> dict[str, Room]:
    """Room of every dimension for a model. `places`: whether its prompts say where two objects stand."""
    plan, prompts = plan or RoomPlan(), prompts or all_prompts()
    worse = clips_of(prepare_inference(damaged(model, plan, places=places)), prompts, plan, places=places)
    full = clips_of(prepare_inference(deepcopy(model)), prompts, plan, places=places)
    return rooms(observer, full, worse, prompts, samples=plan.samples)


def study_room(weights: Path, instruments: Path, out: Path, *, command: str) -> dict[str, Room]:
    """Measure the room of the scores for a weights file or training checkpoint, and write it as JSON."""
    observer = load_observer(instruments)
    by_dimension = measure_room(load_video_model(weights), observer, places=has_places(weights))
    study = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
        "weights": {"file": weights.name, "sha256": sha256_file(weights)},
        "instruments": {"file": instruments.name, "sha256": observer.digest},
        "dimensions": {name: {**asdict(room), "room": room.is_there} for name, room in by_dimension.items()},
        "with_room": sum(room.is_there for room in by_dimension.values()),
        "required": {"with_room": REQUIRED, **LEAST},
    }
    write_json(out, study)
    return by_dimension
