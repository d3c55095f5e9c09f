"""The sixteen scores of one clip, computed from the instruments' outputs. `evaluate` computes the means over clips.

Each score follows VBench's formula for its dimension, as far as moving digits have what the formula needs. Scores are
cosines and fractions; 1 is best.
"""

from collections.abc import Callable, Mapping

import numpy as np

from qdit.mini.data.moving_digits_prompts import MOTIONS, SCENES, STYLES, TEMPOS, Scenario
from qdit.mini.vbench.observation import Detection, Observation

FAST = 0.5
"""Pixels per frame above which a pair of frames moves."""
SURE = 0.85
"""Least sigmoid of a motion's logit, as VBench asks of an action."""

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


def fraction_of_frames(observation: Observation, holds: Callable[[tuple[Detection, ...]], bool]) -> float:
    """Fraction of the frames whose detections meet the condition `holds`."""
    return float(np.mean([holds(frame) for frame in observation.detections]))


def object_class(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Fraction of the frames in which the digit of the prompt is detected."""
    return fraction_of_frames(observation, lambda frame: scenario.digits[0] in {detection.digit for detection in frame})


def multiple_objects(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Fraction of the frames in which all digits of the prompt are detected."""
    return fraction_of_frames(
        observation, lambda frame: set(scenario.digits) <= {detection.digit for detection in frame}
    )


def color(observation: Observation, scenario: Scenario, _: np.ndarray) -> float | None:
    """Fraction of frames in which the prompt's digit has the prompt's colour, among the frames that show this digit."""
    digit, colour = scenario.digits[0], scenario.colours[0]
    coloured = [
        {detection.colour for detection in frame if detection.digit == digit} for frame in observation.detections
    ]
    shown = [colours for colours in coloured if colours]
    return float(np.mean([colour in colours for colours in shown])) if shown else None


def spatial_relationship(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Fraction of the frames in which the two digits stand to each other as the prompt says.

    VBench ignores which object is on which side, so this score is stricter.
    """

    def right(frame: tuple[Detection, ...]) -> bool:
        first, second = ([detection for detection in frame if detection.digit == digit] for digit in scenario.digits)
        return any(stands(a, b) == scenario.relation for a in first for b in second if a is not b)

    return fraction_of_frames(observation, right)


def stands(a: Detection, b: Detection) -> str | None:
    """Position of `a` relative to `b`: left, right, above or below. None if they stand on a diagonal."""
    across, down = a.across - b.across, a.down - b.down
    if abs(across) == abs(down):
        return None
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def scene(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """Fraction of the frames whose recognised background is that of the prompt."""
    return float((observation.scenes.argmax(axis=1) == SCENES.index(scenario.scene)).mean())


def human_action(observation: Observation, scenario: Scenario, _: np.ndarray) -> float:
    """1 if the prompt's motion is recognised with high probability, else 0."""
    wanted = MOTIONS.index(scenario.motion)
    sure = 1 / (1 + np.exp(-observation.motions[wanted])) >= SURE
    return float(observation.motions.argmax() == wanted and sure)


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
