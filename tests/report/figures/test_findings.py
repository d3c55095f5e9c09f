"""Numbers and words that figures state, against values known in advance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from qdit.core.intervals import Resamples
from qdit.core.metrics_record import Status
from qdit.report.data.rows import Block
from qdit.report.figures.activations import across, even, growth
from qdit.report.figures.errors import panels_of, ranking
from qdit.report.figures.group_sizes import our_curve, printed_curve
from qdit.report.figures.plan import find
from qdit.report.figures.quality import positions_of
from qdit.report.figures.salience import correlation
from qdit.report.figures.samples import tiled
from qdit.report.figures.source import Source
from qdit.report.figures.style import between, looks, method_looks, plain, wrapped
from qdit.workflow.method_index import method_sources


def rows(*values: float | None, paired: tuple[float, ...] | None = None) -> Block:
    """A block of table1: group sizes 36, 16, 12 … with these FIDs; `paired`: half widths of resampled values."""
    sizes = (36, 16, 12, 8, 4)
    made = []
    for number, (size, value) in enumerate(zip(sizes, values, strict=False)):
        row = {"group_size": size, "paper_group_size": 8 * size, "published_fid": value, "fid": value}
        row |= {"state": Status.OK if value is not None else Status.MISSING, "short": f"g {size}"}
        if paired and value is not None:
            noise = paired[number] * np.sin(np.arange(200) * (number + 1))
            row["resamples"] = Resamples({"fid": value + noise}, "same")
        made.append(row)
    return Block("title", "setting; beside it the paper's 256×256", tuple(made))


def test_printed_steps_that_make_it_worse() -> None:
    curve = printed_curve(rows(25.11, 17.87, 19.97, 17.64, 16.45))
    assert [(rise.index, round(rise.by, 2), rise.is_chance) for rise in curve.rises] == [(2, 2.1, None)]
    assert curve.name == "DiT-XL/2, 256×256" and curve.sizes == ("288", "128", "96", "64", "32")


def test_our_steps_and_whether_chance_explains_them() -> None:
    curve = our_curve(rows(1.0, 2.0, 2.1, 1.5, 1.6, paired=(0.01, 0.01, 0.5, 0.01, 0.01)), "it", "fid")
    assert [(rise.index, rise.is_chance) for rise in curve.rises] == [(1, False), (2, True), (4, False)]
    assert curve.sizes[0] == "36\n(288)"


def test_a_gap_hides_no_step_and_makes_none() -> None:
    curve = our_curve(rows(1.0, None, 3.0, 2.0), "it", "fid")
    assert curve.values == (1.0, None, 3.0, 2.0) and curve.rises == ()


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=30), st.randoms(use_true_random=False))
def test_correlation_is_spearmans(values: list[int], random: object) -> None:
    a = np.array(values, float)
    b = np.roll(a, 1) + np.arange(len(a)) % 3
    found = correlation(a, b)
    if np.ptp(a) and np.ptp(b):
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
    else:
        assert found == 0


def test_how_uneven_channels_are() -> None:
    assert across(np.array([1.0, 2.0, 8.0])) == 4
    quantiles = np.zeros((1, 2, 3, 7))
    quantiles[0, 1, :, 0], quantiles[0, 1, :, -1] = [-1, -6, -2], [2, 1, 3]
    assert growth(quantiles, np.array([1])) == [3.0]


@given(st.integers(1, 400), st.integers(2, 30))
def test_an_even_choice_has_both_ends(count: int, most: int) -> None:
    chosen = even(count, most)
    assert chosen[0] == 0 and chosen[-1] == count - 1 and len(chosen) == len(set(chosen)) == min(count, most)
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


def test_the_caption_names_the_best_and_the_worst(mini: Source) -> None:
    panels, absent = panels_of(mini, find(mini.profile, "errors-timesteps-dit-digits-natural"))
    assert [panel.title for panel in panels] == ["W4A8", "W4A4"] and absent == []
    words = ranking(panels)
    assert words.count("smallest mean over the steps RTN (1.") == 2 and words.count("largest Q-DiT (1.") == 2


def test_methods_of_one_size_stand_side_by_side() -> None:
    row = {"weight_bits": 4, "activation_bits": 8}
    same = [row | {"label": label, "size_mb": 2.0} for label in ("a", "b", "c")]
    found = positions_of([*same, row | {"label": "d", "size_mb": 4.0}])
    assert found["b", "W4A8"] == 2.0 and found["d", "W4A8"] == 4.0
    assert found["a", "W4A8"] == pytest.approx(1.9) and found["c", "W4A8"] == pytest.approx(2.1)


def test_every_method_has_a_look_of_its_own() -> None:
    own = method_looks()
    assert set(own) == set(method_sources())
    assert len({(look.marker, look.line) for look in own.values()}) == len(own)
    assert len({look.marker for look in own.values()}) == len(own)
    others = looks(["mine", "q-dit", "yours"])
    assert others["q-dit"] == own["q-dit"] and others["mine"] != others["yours"]
    assert [name for name, look in own.items() if look.emphasized] == ["q-dit"]


def test_pictures_keep_their_pixels() -> None:
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8)
    picture = tiled([images, images], 2)
    cell = 4 * 8 + 2
    assert picture.shape == (2 * cell, 2 * cell, 3) and (picture[0] == 255).all()
    np.testing.assert_array_equal(picture[1 : 1 + 32 : 4, 1 : 1 + 32 : 4, 0], images[0, 0])
    np.testing.assert_array_equal(
        picture[1:33, 1 + cell : 33 + cell], picture[1 + cell : 33 + cell, 1 + cell : 33 + cell]
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (0.01, "0.01"), (0.001, "0.001"), (1e-4, "1e-4"), (1000, "1,000"), (2.5, "2.5")],
)
def test_numbers_of_ticks(value: float, text: str) -> None:
    assert plain(value) == text


@given(st.floats(1e-6, 1e6), st.floats(1.9, 50))
def test_an_axis_has_some_numbers(low: float, factor: float) -> None:
    high = low * factor
    found = between(low, high)
    assert 2 <= len(found) <= 11 and all(low <= value <= high for value in found)
    assert found == sorted(found) and all(math.isfinite(value) for value in found)


def test_lines_of_a_title() -> None:
    assert wrapped("one two three", 10, 11) == "one two three"
    assert wrapped("one two three", 1.2, 11).count("\n") >= 1
