"""The sixteen scores against their definitions, on observations written by hand."""

from dataclasses import replace

import numpy as np
import pytest

from qdit.mini.data.moving_digits_prompts import COLOURS, DIGITS, MOTIONS, SCENES, STYLES, TEMPOS, Scenario
from qdit.mini.vbench.observation import Detection, Observation
from qdit.mini.vbench.scores import SCORES, consistency, stands
from qdit.mini.vbench.suites import DIMENSIONS

NONE = np.zeros(0)


def seen_at(digit, colour, down, across, certainty=1.0):
    """A detection that is sure about its digit and colour, and has this objectness."""
    digits = {name: certainty * (name == digit) for name in DIGITS}
    return Detection(digits, {name: float(name == colour) for name in COLOURS}, down, across)


RED_2, BLUE_4 = seen_at("2", "red", 4, 2), seen_at("4", "blue", 4, 6)
ASKED = Scenario(("2", "4"), ("red", "blue"), "left", "up", "blinking", "striped", "sepia")


def sure(names, chosen, probability=1.0):
    """Probabilities: this one at a name, the rest shared by the others."""
    return np.where(np.array(names) == chosen, probability, (1 - probability) / (len(names) - 1))


def observation(**changes):
    """A clip of four frames that is exactly what ASKED asks for."""
    rows = np.tile(np.eye(1, 8), (4, 1))
    seen = Observation(
        detections=((RED_2, BLUE_4),) * 4,
        subject=rows,
        background=rows,
        scenes=np.tile(sure(SCENES, "striped"), (4, 1)),
        styles=np.tile(np.array(STYLES) == "sepia", (4, 1)).astype(float),
        motions=sure(MOTIONS, "up"),
        tempos=(np.array(TEMPOS) == "blinking").astype(float),
        embedding=np.eye(1, 8)[0],
        feature=np.zeros(8),
        aesthetic=np.full(4, 0.75),
        quality=np.full(4, 0.5),
        flow=np.ones(3),
        change=np.full(3, 0.25),
        midpoint=np.full(1, 0.125),
    )
    return replace(seen, **changes)


def score(name, asked=ASKED, prompt=NONE, **changes):
    return SCORES[name](observation(**changes), asked, prompt)


def test_there_are_sixteen_by_vbench_names():
    assert tuple(SCORES) == DIMENSIONS and len(set(DIMENSIONS)) == 16


def test_a_clip_that_is_what_was_asked_for():
    expected = dict.fromkeys(DIMENSIONS, 1.0) | {
        "aesthetic_quality": 0.75, "imaging_quality": 0.5, "temporal_flickering": 0.75, "motion_smoothness": 0.875,
    }  # fmt: skip
    assert {name: score(name, prompt=np.eye(1, 8)[0]) for name in DIMENSIONS} == pytest.approx(expected)


def test_consistency_against_the_formula():
    features = np.random.default_rng(0).normal(size=(6, 5))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    expected = []
    for t in range(1, 6):
        cosines = [features[t] @ features[t - 1], features[t] @ features[0]]
        expected.append(0.5 * sum(max(0.0, cosine) for cosine in cosines))
    assert consistency(features) == pytest.approx(np.mean(expected))


def test_objects_are_averaged_by_frame():
    seen = ((RED_2,), (BLUE_4,), (RED_2, BLUE_4), ())
    assert score("object_class", detections=seen) == 0.5
    assert score("multiple_objects", detections=seen) == 0.25
    assert score("spatial_relationship", detections=seen) == 0.25
    doubtful = seen_at("2", "red", 4, 2, certainty=0.5)
    assert score("object_class", detections=((doubtful,), (doubtful, RED_2), (), ())) == pytest.approx(1.5 / 4)
    assert score("multiple_objects", detections=((doubtful, BLUE_4),) * 4) == 0.5
    assert score("spatial_relationship", detections=((doubtful, seen_at("4", "blue", 4, 6, 0.5)),) * 4) == 0.25


def test_colour_is_judged_where_the_digit_is_seen():
    green = replace(RED_2, colours=RED_2.colours | {"red": 0.25, "green": 0.75})
    faint = seen_at("2", "blue", 1, 1, certainty=0.4)
    assert score("color", detections=((green,), (RED_2,), (BLUE_4,), (faint, RED_2))) == pytest.approx(2.25 / 3)
    assert score("color", detections=((BLUE_4, faint),) * 4) is None
    assert score("color", detections=((),) * 4) is None


@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_relations_have_a_direction(relation):
    place = {"left": (4, 2), "right": (4, 6), "above": (2, 4), "below": (6, 4)}
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[relation]
    first, second = (seen_at("2", "red", *place[side]) for side in (relation, opposite))
    assert stands(first, second) == relation and stands(second, first) == opposite
    assert stands(first, replace(first, down=first.down + 3, across=first.across + 3)) is None
    asked = replace(ASKED, relation=relation)
    four = BLUE_4.digits
    right, wrong = (first, replace(second, digits=four)), (replace(first, digits=four), second)
    assert score("spatial_relationship", asked, detections=(right, wrong, right, wrong)) == 0.5


def test_an_object_is_no_pair_with_itself():
    asked = replace(ASKED, digits=("2", "2"))
    assert score("spatial_relationship", asked, detections=((RED_2,),) * 4) == 0


def test_an_action_has_the_probability_of_its_motion():
    assert score("human_action", motions=sure(MOTIONS, "up", 0.6)) == pytest.approx(0.6)
    assert score("human_action", motions=sure(MOTIONS, "down", 0.6)) == pytest.approx(0.1)


def test_dynamic_degree_needs_two_fast_pairs():
    assert score("dynamic_degree", flow=np.array([0.6, 0.4, 0.4])) == 0
    assert score("dynamic_degree", flow=np.array([0.6, 0.6, 0.4])) == 1
    many = np.r_[np.full(7, 0.9), np.zeros(24)]  # 32 frames need eight
    assert score("dynamic_degree", flow=many) == 0
    assert score("dynamic_degree", flow=np.r_[many, 0.9][1:][::-1]) == 0
    assert score("dynamic_degree", flow=np.r_[np.full(8, 0.9), np.zeros(23)]) == 1


def test_probabilities_and_fractions_of_frames():
    scenes = np.stack([sure(SCENES, name) for name in ("striped", "plain", "dotted", "plain")])
    assert score("scene", scenes=scenes) == 0.25
    assert score("appearance_style", styles=np.array([[0.5, 0.3, 0.2]] * 4)) == pytest.approx(0.2)
    assert score("temporal_style", tempos=np.array([0.1, 0.7, 0.2])) == pytest.approx(0.7)
    assert score("overall_consistency", prompt=0.5 * np.eye(1, 8)[0]) == 0.5
