"""The sixteen scores of one clip, computed from the instruments' outputs. `evaluate` computes the means over clips.

Each score follows VBench's formula for its dimension, as far as moving digits have what the formula needs. VBench
counts frames in which a network says yes. The instruments say yes in nearly all frames of the moving digits, so a count
would be 1 for good and for damaged clips. Therefore the scores take the probability of yes in place of yes or no.
Scores are cosines and probabilities; 1 is best.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from qdit.mini.data.moving_digits_prompts import MOTIONS, SCENES, STYLES, TEMPOS, Scenario
from qdit.mini.vbench.observation import Detection, Observation

FAST = 0.5
"""Pixels per frame above which a pair of frames moves."""
SEEN = 0.5
"""Least probability of a digit in a frame whose colour is judged."""

Score = Callable[[Observation, Scenario, np.ndarray], float | None]
"""Score of a clip for a prompt and the prompt's embedding (96,); None if it cannot be scored (VBench skips it)."""


def consistency(features: np.ndarray) -> float:
    """Mean over frames t ≥ 2 of ½ [max(0, cos(f_t, f_(t−1))) + max(0, cos(f_t, f_1))]; features f_t have length one."""
    previous = (features[1:] * features[:-1]).sum(axis=1)
    first = features[1:] @ features[0]
    return float((np.maximum(previous, 0) + np.maximum(first, 0)).mean() / 2)


def subject_consistency(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """Similarity of the features of the objects from frame to frame, by `consistency`."""
    return consistency(observation.subject)


def background_consistency(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """Similarity of the features of the background from frame to frame, by `consistency`."""
    return consistency(observation.background)


def temporal_flickering(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """1 − mean absolute difference of successive frames. It is measured on prompts whose digits stand still."""
    return float(1 - observation.change.mean())


def motion_smoothness(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """1 − mean absolute error of odd frames when they are interpolated from their neighbours."""
    return float(1 - observation.midpoint.mean())


def dynamic_degree(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """1 if at least a quarter of the pairs of successive frames, and at least two pairs, show motion; else 0."""
    frames = len(observation.flow) + 1
    return float((observation.flow > FAST).sum() >= max(2, round(4 * frames / 16)))


def aesthetic_quality(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """Mean over frames of the composition, as the aesthetic network judges it."""
    return float(observation.aesthetic.mean())


def imaging_quality(observation: Observation, _: Scenario, __: np.ndarray) -> float:
    """Mean over frames of the image quality, as QualityNet judges it: little noise, blur, coarse levels and blocks."""
    return float(observation.quality.mean())


def certainty(frame: tuple[Detection, ...], digit: str) -> float:
    """Largest probability of a digit among the detections of a frame; 0 without detections."""
    return max((detection.digits[digit] for detection in frame), default=0.0)


def object_class(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Mean over frames of the probability that the digit is there."""
    return float(np.mean([certainty(frame, scenario.digits[0]) for frame in observation.detections]))


def multiple_objects(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Mean over frames of the probability that all digits of the prompt are there."""
    digits = set(scenario.digits)
    return float(np.mean([math.prod(certainty(frame, digit) for digit in digits) for frame in observation.detections]))


def color(observation: Observation, scenario: Scenario, _: np.ndarray) -> float | None:
    """Of the frames with the prompt's digit, the mean probability that it has the prompt's colour."""
    digit, colour = scenario.digits[0], scenario.colours[0]
    best = [max(frame, key=lambda detection: detection.digits[digit]) for frame in observation.detections if frame]
    shown = [detection.colours[colour] for detection in best if detection.digits[digit] >= SEEN]
    return float(np.mean(shown)) if shown else None


def spatial_relationship(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Mean over frames of the probability that the two digits stand to each other as the prompt says.

    It is the probability for the best pair of detections. VBench is less strict: it ignores which object is on which
    side.
    """

    def best(frame: tuple[Detection, ...]) -> float:
        first, second = scenario.digits
        pairs = ((a, b) for a in frame for b in frame if a is not b and stands(a, b) == scenario.relation)
        return max((a.digits[first] * b.digits[second] for a, b in pairs), default=0.0)

    return float(np.mean([best(frame) for frame in observation.detections]))


def stands(a: Detection, b: Detection) -> str | None:
    """Position of `a` relative to `b`: left, right, above or below. None if they stand on a diagonal."""
    across, down = a.across - b.across, a.down - b.down
    if abs(across) == abs(down):
        return None
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def scene(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Mean over frames of the probability of the prompt's background."""
    return float(observation.scenes[:, SCENES.index(scenario.scene)].mean())


def human_action(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Probability of the prompt's motion."""
    return float(observation.motions[MOTIONS.index(scenario.motion)])


def appearance_style(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Probability that a frame has the prompt's style, as the mean over frames."""
    return float(observation.styles[:, STYLES.index(scenario.style)].mean())


def temporal_style(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Probability that the clip has the prompt's tempo."""
    return float(observation.tempos[TEMPOS.index(scenario.tempo)])


def overall_consistency(observation: Observation, _: Scenario, prompt: np.ndarray) -> float:
    """Cosine of the angle between the embeddings of clip and prompt."""
    return float(observation.embedding @ prompt)


SCORES: Mapping[str, Score] = {
    score.__name__: score
    for score in (
        subject_consistency, overall_consistency, temporal_style, appearance_style,
        scene, spatial_relationship, color, human_action,
        multiple_objects, object_class, imaging_quality, aesthetic_quality,
        dynamic_degree, motion_smoothness, temporal_flickering, background_consistency,
    )
}  # fmt: skip
"""Dimension → score of a clip."""
