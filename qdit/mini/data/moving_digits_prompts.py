"""Prompts of the moving digits: conversion between words, scenarios and token vectors.

A prompt names its objects and their motion. It may leave out tempo, background and style; the defaults are steady,
plain and normal:

    a red 2, moving left, blinking, on a striped background, in negative style
    a red 2 on the left of a blue 4, moving up
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import DataError, did_you_mean
from qdit.core.seeds import Purpose, generator

DIGITS = ("0", "1", "2", "4", "6", "7")
"""Six digits that look different at 8×8. 3, 5, 8 and 9 are left out, so that a small model can learn the others."""
COLOURS = ("red", "green", "blue", "yellow")
MOTIONS = ("left", "right", "up", "down", "still")
TEMPOS = ("steady", "blinking", "fading")
SCENES = ("plain", "striped", "checkered", "dotted")
STYLES = ("normal", "negative", "sepia")
RELATIONS = ("left", "right", "above", "below")
"""Where the first object stands, seen from the second."""

MOTION_WORDS = {motion: f"moving {motion}" for motion in MOTIONS} | {"still": "standing still"}
TEMPO_WORDS = {"steady": "", "blinking": ", blinking", "fading": ", fading in"}
RELATION_WORDS = {
    "left": "on the left of",
    "right": "on the right of",
    "above": "on the top of",
    "below": "on the bottom of",
}
"""VBench's own four phrases."""
EXAMPLE = "a red 2 on the left of a blue 4, moving up, blinking, on a striped background, in negative style"

TOKENS = (
    *(f"{word}/{slot}" for slot in (1, 2) for word in (*DIGITS, *COLOURS)),
    *(f"relation-{word}" for word in RELATIONS),
    *(f"motion-{word}" for word in MOTIONS),
    *TEMPOS,
    *SCENES,
    *STYLES,
)
"""What prompts are made of. Words of the second object are tokens of their own: attention sees no order."""
MAX_TOKENS = 9
CHANNELS = 64
"""Length of a token vector."""
TABLE_SEED = 0
PLACES = True
"""Whether the words of two objects say where they stand (`encode`); the shipped model was trained with such words."""
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Scenario:
    """Content of a prompt: one or two digits, the position of the first relative to the second, and the rest.

    The rest are properties that both digits or the whole clip have: motion, tempo, background (`scene`) and style.
    """

    digits: tuple[str, ...]
    colours: tuple[str, ...]
    relation: str | None
    motion: str = "still"
    tempo: str = "steady"
    scene: str = "plain"
    style: str = "normal"


def motions_beside(relation: str | None) -> tuple[str, ...]:
    """Motions that two digits side by side may have: at a right angle to the line between them, or none."""
    along = {"left": ("left", "right"), "right": ("left", "right"), "above": ("up", "down"), "below": ("up", "down")}
    return tuple(motion for motion in MOTIONS if relation is None or motion not in along[relation])


def prompt_of(scenario: Scenario) -> str:
    """The prompt, in words, that describes a scenario."""
    objects = [f"a {colour} {digit}" for digit, colour in zip(scenario.digits, scenario.colours, strict=True)]
    relation = f" {RELATION_WORDS[scenario.relation]} " if scenario.relation is not None else ""
    scene = "" if scenario.scene == "plain" else f", on a {scenario.scene} background"
    style = "" if scenario.style == "normal" else f", in {scenario.style} style"
    motion = f", {MOTION_WORDS[scenario.motion]}"
    return relation.join(objects) + motion + TEMPO_WORDS[scenario.tempo] + scene + style


@cache
def _grammar() -> re.Pattern[str]:
    def any_of(words: Mapping[str, str] | tuple[str, ...]) -> str:
        return "|".join(words.values() if isinstance(words, Mapping) else words)

    colours, digits = any_of(COLOURS), any_of(DIGITS)
    return re.compile(
        rf"a (?P<colour1>{colours}) (?P<digit1>{digits})"
        rf"( (?P<relation>{any_of(RELATION_WORDS)}) a (?P<colour2>{colours}) (?P<digit2>{digits}))?"
        rf", (?P<motion>{any_of(MOTION_WORDS)})(?P<tempo>{any_of(TEMPO_WORDS)})"
        rf"(, on a (?P<scene>{any_of(SCENES)}) background)?(, in (?P<style>{any_of(STYLES)}) style)?"
    )


VOCABULARY = tuple(
    sorted(
        {*DIGITS, *COLOURS, *SCENES, *STYLES, "a", "on", "in", "background", "style"}
        | {
            w
            for p in (*MOTION_WORDS.values(), *RELATION_WORDS.values(), *TEMPO_WORDS.values())
            for w in p.strip(", ").split()
        }
    )
)


def parse_prompt(prompt: str) -> Scenario:
    """The scenario that a prompt describes. DataError, in one line, for unknown words or a sentence of another form."""
    for word in prompt.replace(",", " ").split():
        if word not in VOCABULARY:
            raise DataError(
                f"prompt {prompt!r}: unknown word {word!r}{did_you_mean(word, VOCABULARY)}; the moving digits know"
                f" {', '.join(VOCABULARY)}"
            )
    match = _grammar().fullmatch(prompt)
    if match is None:
        raise DataError(f"prompt {prompt!r}: not a sentence about moving digits; write it like {EXAMPLE!r}")

    def key(words: Mapping[str, str], phrase: str) -> str:
        return next(name for name, value in words.items() if value == phrase)

    two = match["relation"] is not None
    scenario = Scenario(
        digits=(match["digit1"], match["digit2"]) if two else (match["digit1"],),
        colours=(match["colour1"], match["colour2"]) if two else (match["colour1"],),
        relation=key(RELATION_WORDS, match["relation"]) if two else None,
        motion=key(MOTION_WORDS, match["motion"]),
        tempo=key(TEMPO_WORDS, match["tempo"]),
        scene=match["scene"] or "plain",
        style=match["style"] or "normal",
    )
    if scenario.motion not in motions_beside(scenario.relation):
        allowed = ", ".join(MOTION_WORDS[motion] for motion in motions_beside(scenario.relation))
        raise DataError(
            f"prompt {prompt!r}: {MOTION_WORDS[scenario.motion]} leaves no room for two digits"
            f" {RELATION_WORDS[scenario.relation or '']} each other; allowed are {allowed}"
        )
    return scenario


def tokens_of(scenario: Scenario) -> tuple[int, ...]:
    """Tokens of a scenario, as indices into `TOKENS`: six for one digit, nine for two. Defaults have tokens, too."""
    words = []
    for slot, (digit, colour) in enumerate(zip(scenario.digits, scenario.colours, strict=True), start=1):
        words += [f"{colour}/{slot}", f"{digit}/{slot}"]
    if scenario.relation is not None:
        words.append(f"relation-{scenario.relation}")
    words += [f"motion-{scenario.motion}", scenario.tempo, scenario.scene, scenario.style]
    return tuple(TOKENS.index(word) for word in words)


@cache
def _basis() -> Tensor:
    """Rows of a random orthogonal matrix (64, 64), times 8."""
    matrix = generator(TABLE_SEED, Purpose.PROBE).standard_normal((CHANNELS, CHANNELS))
    basis, triangle = np.linalg.qr(matrix)
    basis *= np.sign(np.diag(triangle))  # a decomposition is unique only up to signs
    return torch.from_numpy((basis * CHANNELS**0.5).astype(np.float32))


def token_table() -> Tensor:
    """Fixed vectors (tokens, 64) that replace a text encoder."""
    return _basis()[: len(TOKENS)]


def place_vectors(relation: str) -> Tensor:
    """Vectors (2, 64) of the sides on which the first and the second object stand. They differ from all words."""
    sides = _basis()[len(TOKENS) : len(TOKENS) + len(RELATIONS)]
    return sides[[RELATIONS.index(relation), RELATIONS.index(OPPOSITE[relation])]]


def encode(scenarios: tuple[Scenario, ...], *, places: bool = PLACES) -> tuple[Tensor, Tensor]:
    """Token vectors (N, 9, 64) of N scenarios, and the mask (N, 9), true at tokens.

    Vectors after the last token are zero. With `places`, the vectors of an object's two words also hold the side on
    which it stands. A text encoder does this too: its vector of a word depends on the sentence.
    """
    vectors = torch.zeros(len(scenarios), MAX_TOKENS, CHANNELS)
    mask = torch.zeros(len(scenarios), MAX_TOKENS, dtype=torch.int64)
    for row, scenario in enumerate(scenarios):
        tokens = tokens_of(scenario)
        vectors[row, : len(tokens)] = token_table()[list(tokens)]
        mask[row, : len(tokens)] = 1
        if places and scenario.relation is not None:
            vectors[row, :4] += place_vectors(scenario.relation).repeat_interleave(2, dim=0)
    return vectors, mask
