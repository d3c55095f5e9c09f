"""Every figure is legible, of a miniature and of models of the papers' size; and the check sees what is not."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qdit.report.figures.build import KINDS, sketch
from qdit.report.figures.plan import Planned, planned
from qdit.report.figures.source import Source
from qdit.report.figures.style import compose, missing_sketch
from tests.report.figures.conftest import make_profile
from tests.report.figures.legible import problems

ELSEWHERE = {"search", "speed"}
"""Kinds with tests of their own, because they need other records than `make_profile` has."""

FACE = "mini profile: handwritten digits, not ImageNet"


def one_of_each(source: Source) -> dict[str, Planned]:
    """A figure of every kind; of those about sizes and samples the fullest."""
    return {figure.kind: figure for figure in reversed(planned(source.profile)) if figure.kind not in ELSEWHERE}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ELSEWHERE])
@pytest.mark.parametrize("size", [pytest.param("mini", marks=pytest.mark.slow), "large"])  # fewer and shorter texts
def test_no_text_is_cut_or_lies_on_another(size: str, kind: str, request: pytest.FixtureRequest) -> None:
    source: Source = request.getfixturevalue(size)
    drawn = sketch(source, one_of_each(source)[kind])
    assert drawn.missing is None
    assert problems(compose(drawn, FACE)) == []


def test_a_missing_figure_is_legible_too() -> None:
    why = "analysis/digits-cfg1.0-s20/natural/activations.npz is missing; `snakemake --cores all figures` makes it"
    drawing = compose(missing_sketch("Weights and activations by channel", "dit-digits: 20 DDIM steps", why), FACE)
    assert problems(drawing) == []


def bare(*texts: tuple[float, float, str]) -> Figure:
    figure = Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    for x, y, text in texts:
        figure.text(x, y, text)
    return figure


def test_the_check_sees_what_is_cut_and_what_overlaps() -> None:
    assert problems(bare((0.1, 0.1, "here"), (0.1, 0.6, "there"))) == []
    assert problems(bare((0.9, 0.5, "much too long"))) == ["cut: 'much too long'"]
    assert problems(bare((0.1, 0.1, "under"), (0.12, 0.12, "over"))) == ["'over' lies on 'under'"]


def test_it_sees_tick_labels_that_touch() -> None:
    figure = bare()
    axes = figure.add_subplot()
    axes.set_xticks(range(30), ["0.0075"] * 30)
    assert "'0.0075' lies on '0.0075'" in problems(figure)


def test_the_profile_has_a_figure_of_every_kind() -> None:
    assert {figure.kind for figure in planned(make_profile())} >= set(KINDS) - ELSEWHERE
