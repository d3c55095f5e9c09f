"""The prompts of mini-VBench in VBench's JSON schema: eleven prompt suites for sixteen dimensions, as in VBench."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from qdit.core.errors import DataError, did_you_mean
from qdit.core.files import read_json
from qdit.core.metrics import DIMENSIONS
from qdit.mini.data.moving_digits import draw_scenario
from qdit.mini.data.moving_digits_prompts import (
    COLOURS,
    DIGITS,
    MOTIONS,
    RELATION_WORDS,
    RELATIONS,
    SCENES,
    STYLES,
    TEMPOS,
    Scenario,
    motions_beside,
    parse_prompt,
    prompt_of,
)

PROMPTS = 6
"""Prompts of a suite."""
SAMPLES = 3
"""Clips of a prompt."""

SUITES: Mapping[str, tuple[str, ...]] = {
    "subject": ("subject_consistency", "motion_smoothness", "dynamic_degree", "human_action"),
    "scene": ("background_consistency", "scene", "human_action"),
    "overall": ("aesthetic_quality", "imaging_quality", "overall_consistency", "appearance_style"),
    "flickering": ("temporal_flickering",),
    "object": ("object_class", "scene", "human_action"),
    "objects": ("multiple_objects",),
    "colour": ("color", "scene", "human_action"),
    "relation": ("spatial_relationship",),
    "action": ("human_action",),
    "appearance": ("appearance_style", "aesthetic_quality", "imaging_quality"),
    "tempo": ("temporal_style", "aesthetic_quality", "imaging_quality"),
}
"""Suite → dimensions that are scored on its clips, by VBench's names (human_action is the digits' motion).

More clips make intervals narrower at no cost of sampling. Therefore five dimensions are also scored on clips of other
suites, if the prompts have the answer.
"""


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the dimensions of VBench that are scored on its clips."""

    text: str
    dimensions: tuple[str, ...]

    @property
    def scenario(self) -> Scenario:
        """The scenario that the prompt describes."""
        return parse_prompt(self.text)


def suited(suite: str, number: int, scenario: Scenario) -> Scenario | None:
    """Change a random scenario so that it becomes prompt number `number` of a suite.

    None if its number of digits is wrong. Successive prompts take successive values of the tested property, so that six
    prompts cover it. Properties that would hide the answer are left out: blinking, fading, and a style (unless the
    suite tests styles).
    """
    if (len(scenario.digits) == 2) != (suite in ("objects", "relation")) and suite != "overall":
        return None
    if suite == "overall":
        return scenario
    plain = replace(scenario, tempo="steady", style="normal")
    motion = MOTIONS[number % len(MOTIONS)]
    moving = MOTIONS[number % (len(MOTIONS) - 1)]
    beside = motions_beside(RELATIONS[number % len(RELATIONS)])
    answers: dict[str, dict[str, Any]] = {
        "subject": {"motion": moving},
        "scene": {"scene": SCENES[number % len(SCENES)]},
        "flickering": {"motion": "still"},
        "object": {"digits": (DIGITS[number % len(DIGITS)],)},
        "objects": {},
        "colour": {"colours": (COLOURS[number % len(COLOURS)],)},
        "relation": {"relation": RELATIONS[number % len(RELATIONS)], "motion": beside[number % len(beside)]},
        "action": {"motion": motion},
        "appearance": {"style": STYLES[number % len(STYLES)]},
        "tempo": {"tempo": TEMPOS[number % len(TEMPOS)]},
    }
    changed = replace(plain, **answers[suite])
    same_twice = suite in ("objects", "relation") and changed.digits[0] == changed.digits[1]
    return None if same_twice else changed


def suite_prompts(suite: str, prompts: int = PROMPTS) -> list[Prompt]:
    """The first `prompts` prompts of one suite. No prompt occurs twice."""
    prompts_by_text: dict[str, Prompt] = {}
    first = 1000 * list(SUITES).index(suite)
    for index in count(first):
        prompt = suited(suite, len(prompts_by_text), draw_scenario(3, index))
        if prompt is not None:
            prompts_by_text.setdefault(prompt_of(prompt), Prompt(prompt_of(prompt), SUITES[suite]))
        if len(prompts_by_text) == prompts:
            return list(prompts_by_text.values())
    raise AssertionError("the drawing of scenarios never ends")


def all_prompts(prompts: int = PROMPTS) -> list[Prompt]:
    """The prompts of all suites, in order. A text that occurs in two suites becomes one prompt of both."""
    merged: dict[str, Prompt] = {}
    for suite in SUITES:
        for prompt in suite_prompts(suite, prompts):
            add_prompt(merged, prompt)
    return list(merged.values())


def auxiliary(scenario: Scenario, dimension: str) -> Any:
    """What VBench's JSON says about a prompt for one dimension, for example the colour to find.

    None for most dimensions.
    """
    objects = " and ".join(scenario.digits)
    if dimension == "spatial_relationship" and scenario.relation is not None:
        first, second = scenario.digits
        words = RELATION_WORDS[scenario.relation]
        return {"spatial_relationship": {"object_a": first, "object_b": second, "relationship": words}}
    return {
        "object_class": {"object": objects},
        "multiple_objects": {"object": objects},
        "color": {"color": scenario.colours[0]},
        "scene": {"scene": {"scene": scenario.scene}},
        "appearance_style": {"appearance_style": scenario.style},
    }.get(dimension)


def full_info(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """The prompts in the form of VBench's full_info JSON."""
    rows = []
    for prompt in prompts:
        known = {d: auxiliary(prompt.scenario, d) for d in prompt.dimensions}
        row: dict[str, Any] = {"prompt_en": prompt.text, "dimension": list(prompt.dimensions)}
        if any(known.values()):
            row["auxiliary_info"] = {d: value for d, value in known.items() if value is not None}
        rows.append(row)
    return rows


def read_full_info(path: Path) -> list[Prompt]:
    """Read prompts from a full_info JSON. A text that occurs in several entries becomes one prompt of all dimensions.

    DataError, in one line, for another schema, unknown words or dimensions.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: not a list of prompts; write it with qdit video suite")
    merged: dict[str, Prompt] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("prompt_en"), str) or not row.get("dimension"):
            raise DataError(f"{path}: entry {number} has no prompt_en or no dimension; write it with qdit video suite")
        if not isinstance(row["dimension"], list):
            raise DataError(f"{path}: entry {number} has dimension {row['dimension']!r:.60}, expected a list of names")
        for dimension in row["dimension"]:
            if dimension not in DIMENSIONS:
                raise DataError(
                    f"{path}: entry {number} has the unknown dimension {dimension!r:.60}; allowed are"
                    f" {', '.join(DIMENSIONS)}{did_you_mean(str(dimension), DIMENSIONS)}"
                )
        try:
            parse_prompt(row["prompt_en"])
        except DataError as problem:
            raise DataError(f"{path}: {problem}") from None
        add_prompt(merged, Prompt(row["prompt_en"], tuple(row["dimension"])))
    return list(merged.values())


def add_prompt(merged: dict[str, Prompt], prompt: Prompt) -> None:
    """Add a prompt to prompts by text, in place. If its text is known, only its dimensions are added."""
    known = merged.get(prompt.text, Prompt(prompt.text, ()))
    merged[prompt.text] = Prompt(prompt.text, tuple(dict.fromkeys(known.dimensions + prompt.dimensions)))
