"""Prompt suites: eleven, each dimension once, VBench's schema, and bad files refused in one line."""

import json
from collections import Counter

import pytest

from qdit.core.errors import DataError
from qdit.core.files import write_json
from qdit.mini.vbench.suites import DIMENSIONS, SUITES, all_prompts, full_info, read_full_info, suite_prompts

MORE = {"human_action": 30, "scene": 18, "aesthetic_quality": 18, "imaging_quality": 18, "appearance_style": 12}
"""Prompts of the dimensions that are scored on several suites."""


def test_every_dimension_has_a_suite():
    assert set(Counter(dimension for dimensions in SUITES.values() for dimension in dimensions)) == set(DIMENSIONS)
    assert len(SUITES) == 11 and all(len(set(dimensions)) == len(dimensions) for dimensions in SUITES.values())


def test_every_dimension_has_six_prompts_or_more():
    prompts = all_prompts()
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 63  # three are in two suites
    assert all(len(set(prompt.dimensions)) == len(prompt.dimensions) for prompt in prompts)
    counted = Counter(d for prompt in prompts for d in prompt.dimensions)
    assert counted == dict.fromkeys(DIMENSIONS, 6) | MORE


def test_shared_prompts_have_the_answer():
    for suite, dimensions in SUITES.items():
        for scenario in (prompt.scenario for prompt in suite_prompts(suite)):
            if "human_action" in dimensions or "scene" in dimensions:
                assert (len(scenario.digits), scenario.tempo, scenario.style) == (1, "steady", "normal")
    assert suite_prompts("scene", 3) == suite_prompts("scene", 6)[:3]


def test_prompts_suit_their_dimension():
    for prompt in suite_prompts("subject"):
        assert prompt.scenario.motion != "still" and len(prompt.scenario.digits) == 1
    for suite in ("objects", "relation"):
        assert all(len(set(prompt.scenario.digits)) == 2 for prompt in suite_prompts(suite))
    assert all(prompt.scenario.motion == "still" for prompt in suite_prompts("flickering"))
    assert {prompt.scenario.digits[0] for prompt in suite_prompts("object")} == set("012467")
    assert {prompt.scenario.relation for prompt in suite_prompts("relation")} == {"left", "right", "above", "below"}
    assert len({prompt.scenario.motion for prompt in suite_prompts("action")}) == 5
    for suite in set(SUITES) - {"overall", "tempo"}:
        assert all(prompt.scenario.tempo == "steady" for prompt in suite_prompts(suite))


def test_the_json_has_vbench_schema_and_comes_back(tmp_path):
    prompts = all_prompts(2)
    write_json(tmp_path / "suite.json", full_info(prompts))
    assert read_full_info(tmp_path / "suite.json") == prompts
    relation = next(row for row in full_info(prompts) if "spatial_relationship" in row["dimension"])
    inner = relation["auxiliary_info"]["spatial_relationship"]["spatial_relationship"]
    assert set(inner) == {"object_a", "object_b", "relationship"} and inner["relationship"] == "on the left of"
    scene = next(row for row in full_info(prompts) if "scene" in row["dimension"])
    assert scene["auxiliary_info"]["scene"] == {"scene": {"scene": "plain"}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "not a list of prompts"),
        ({"prompt_en": "x"}, "not a list of prompts"),
        ([{"prompt_en": "a red 2, standing still"}], "entry 0 has no prompt_en or no dimension"),
        ([{"prompt_en": "a red 2, standing still", "dimension": ["colour"]}], "'colour'; allowed are .* mean 'color'"),
        ([{"prompt_en": "a red cow, standing still", "dimension": ["color"]}], "unknown word 'cow'"),
        (
            [{"prompt_en": "a red 2, standing still", "dimension": "color"}],
            "dimension 'color', expected a list of names",
        ),
        ([{"prompt_en": "a red 2, standing still", "dimension": 5}], "dimension 5, expected a list of names"),
        ([{"prompt_en": "a red 2, standing still", "dimension": [5]}], "the unknown dimension 5; allowed are"),
        ([{"prompt_en": "a red 2, standing still", "dimension": [["color"]]}], r"the unknown dimension \['color'\]"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, rows, message):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message) as refused:
        read_full_info(path)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_a_prompt_that_stands_twice_has_the_dimensions_of_both_entries(tmp_path):
    text = "a red 2, standing still"
    rows = [{"prompt_en": text, "dimension": ["color"]}, {"prompt_en": text, "dimension": ["scene", "color"]}]
    write_json(tmp_path / "suite.json", rows)
    (prompt,) = read_full_info(tmp_path / "suite.json")
    assert (prompt.text, prompt.dimensions) == (text, ("color", "scene"))
