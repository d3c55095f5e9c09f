"""Prompts: words and scenarios are two ways of writing the same thing, and everything else is refused in one line."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import DataError
from qdit.mini.data.moving_digits import draw_scenario
from qdit.mini.data.moving_digits_prompts import (
    EXAMPLE,
    MAX_TOKENS,
    OPPOSITE,
    RELATIONS,
    TOKENS,
    Scenario,
    encode,
    parse_prompt,
    place_vectors,
    prompt_of,
    token_table,
    tokens_of,
)


@given(st.integers(0, 2**31))
def test_a_prompt_says_all_of_its_scenario(index):
    scenario = draw_scenario(0, index)
    assert parse_prompt(prompt_of(scenario)) == scenario
    assert len(tokens_of(scenario)) == (6 if scenario.relation is None else 9)


def test_the_example():
    found = parse_prompt(EXAMPLE)
    assert found == Scenario(("2", "4"), ("red", "blue"), "left", "up", "blinking", "striped", "negative")
    assert prompt_of(found) == EXAMPLE
    assert parse_prompt("a red 2, standing still") == Scenario(("2",), ("red",), None)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red 3, moving left", "unknown word '3'"),
        ("a red 2, moving lefft", "unknown word 'lefft'; did you mean 'left'"),
        ("a cat, moving left", "unknown word 'cat'"),
        ("", "not a sentence about moving digits; write it like"),
        ("a red 2", "not a sentence"),
        ("a 2 red, moving left", "not a sentence"),
        ("a red 2, moving still", "not a sentence"),
        (
            "a red 2 on the left of a blue 4, moving left",
            "no room .* allowed are moving up, moving down, standing still",
        ),
    ],
)
def test_other_sentences_are_refused_in_one_line(prompt, message):
    with pytest.raises(DataError, match=message) as refused:
        parse_prompt(prompt)
    assert "\n" not in str(refused.value)


def test_words_of_the_second_object_are_other_tokens():
    one = tokens_of(Scenario(("2", "4"), ("red", "blue"), "left", "up"))
    two = tokens_of(Scenario(("4", "2"), ("blue", "red"), "left", "up"))
    assert set(one) != set(two)
    assert len(set(TOKENS)) == len(TOKENS) <= token_table().shape[1]


def test_token_vectors_are_orthogonal_and_fixed():
    table = token_table()
    torch.testing.assert_close(table @ table.T, 64.0 * torch.eye(len(TOKENS)), atol=1e-3, rtol=0)
    assert float(table[0, 0]) == pytest.approx(FIRST, abs=1e-5)


FIRST = 0.5610760
"""First number of the table: models are trained on it."""


def test_encoding_pads_with_zeros():
    scenarios = (Scenario(("2",), ("red",), None), Scenario(("2", "4"), ("red", "blue"), "left", "up"))
    vectors, mask = encode(scenarios, places=False)
    assert mask.sum(dim=1).tolist() == [6, MAX_TOKENS]
    assert vectors[0, 6:].abs().max() == 0
    assert torch.equal(vectors[1], token_table()[list(tokens_of(scenarios[1]))])


@given(st.integers(0, 2**31))
def test_words_of_two_objects_may_say_where_they_stand(index):
    scenario = draw_scenario(0, index, two_objects=1.0)
    added = (encode((scenario,), places=True)[0] - encode((scenario,), places=False)[0])[0]
    first, second = place_vectors(scenario.relation)
    torch.testing.assert_close(added[:4], torch.stack([first, first, second, second]), atol=1e-5, rtol=0)
    assert added[4:].abs().max() == 0
    assert float((token_table() @ first).abs().max()) < 1e-3 and abs(float(first @ second)) < 1e-3
    single = draw_scenario(0, index, two_objects=0.0)
    assert torch.equal(encode((single,), places=True)[0], encode((single,), places=False)[0])


def test_a_side_has_one_vector():
    for relation, opposite in OPPOSITE.items():
        assert torch.equal(place_vectors(relation), place_vectors(opposite).flip(0))
    assert len({tuple(place_vectors(relation)[0].tolist()) for relation in RELATIONS}) == 4
