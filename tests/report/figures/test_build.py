"""All figures of a profile as files: equal bytes, the face on each, a list that a page can read, partial runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import ConfigError
from qdit.core.files import load_arrays, save_arrays
from qdit.report.figures.build import build_figures, sketch
from qdit.report.figures.plan import Planned, find, planned
from qdit.report.figures.source import Source
from qdit.report.figures.style import compose, encode
from qdit.report.render.gallery import gallery
from tests.report.figures.conftest import make_profile

FIELDS = {"name", "title", "caption", "group", "file_svg", "file_png", "alt"}
SOME = ["errors-timesteps-dit-digits-natural", "group-sizes-table1", "samples-digits-cfg1.0-s20-natural-w4a4"]


@pytest.fixture
def source(mini: Source, tmp_path: Path) -> Source:
    """A copy that a test may change."""
    return Source(mini.profile, Path(shutil.copytree(mini.results, tmp_path / "mini")))


def listed(results: Path) -> dict[str, dict[str, Any]]:
    entries = json.loads((results / "figures" / "figures.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in entries}


def test_what_is_written_is_what_the_list_says(source: Source) -> None:
    paths = build_figures(source.profile, source.results, only=SOME)
    assert [path.name for path in paths[-1:]] == ["figures.json"] and len(paths) == 2 * len(SOME) + 1
    entries = listed(source.results)
    assert [name for name in (figure.name for figure in planned(source.profile)) if name in SOME] == list(entries)
    for entry in entries.values():
        assert entry.keys() >= FIELDS and entry["missing"] is None
        assert entry["caption"].endswith(".") and "nan" not in entry["caption"]
        svg = (source.results / "figures" / entry["file_svg"]).read_text(encoding="utf-8")
        png = (source.results / "figures" / entry["file_png"]).read_bytes()
        assert png.startswith(b"\x89PNG") and svg.startswith("<?xml") and "handwritten digits, not ImageNet" in svg
        assert entry["title"].split("(")[0].strip()[:20] in svg
    assert [group for group, _ in gallery(source.results, 10_000_000)] == ["methods", "samples"]


@pytest.mark.parametrize(  # one kind of lines and one of pictures; the others draw by the same two
    "kind",
    ["errors-layers", "samples", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("channels", "sizes"))],
)
def test_two_renders_are_equal_and_hold_no_date(mini: Source, kind: str) -> None:
    figure = next(figure for figure in planned(mini.profile) if figure.kind == kind)
    first, second = (encode(compose(sketch(mini, figure), "a face")) for _ in range(2))
    assert first == second
    assert not re.search(r"20\d\d-\d\d|dc:date|Matplotlib", re.sub(r"<!--.*?-->|base64,[^\"]*", "", first[0]))
    assert b"Software" not in first[1] and b"tIME" not in first[1]


def test_nothing_has_been_run(tmp_path: Path) -> None:
    profile = make_profile()
    build_figures(profile, tmp_path / "mini", only=[*SOME, "channels-dit-digits-natural", "allocations-found-table6"])
    entries = listed(tmp_path / "mini")
    assert {name: bool(entry["missing"]) for name, entry in entries.items()} == dict.fromkeys(entries, True)
    channels = entries["channels-dit-digits-natural"]
    assert "activations.npz is missing; `snakemake --cores all figures`" in channels["missing"]
    svg = (tmp_path / "mini" / "figures" / channels["file_svg"]).read_text(encoding="utf-8")
    assert "Not drawn" in svg and "handwritten digits, not ImageNet" in svg


def test_a_figure_that_is_made_when_asked_for_is_left_out_without_data(source: Source) -> None:
    name = "transfer-of-allocations-transfer"
    assert find(source.profile, name).opt_in
    for path in (source.results / "runs").glob("*/*/from-natural"):
        shutil.rmtree(path)
    for path in (source.results / "runs").glob("*/*/rtn"):
        shutil.rmtree(path)
    build_figures(source.profile, source.results, only=[name])
    assert listed(source.results) == {}


def test_one_figure_keeps_the_others_of_the_list(source: Source) -> None:
    build_figures(source.profile, source.results, only=SOME[1:])
    before = listed(source.results)
    shutil.rmtree(source.results / "runs" / "digits-cfg1.0-s20" / "natural" / "rtn")
    build_figures(source.profile, source.results, only=SOME[:1])
    after = listed(source.results)
    assert list(after) == [name.name for name in planned(source.profile) if name.name in SOME]
    assert {name: after[name] for name in before} == before


def test_an_unknown_figure(source: Source) -> None:
    with pytest.raises(ConfigError, match="figure 'nothing'"):
        build_figures(source.profile, source.results, only=["nothing"])


def drawn_again(source: Source, name: str) -> tuple[Planned, Any]:
    figure = find(source.profile, name)
    return figure, sketch(source, figure)


def test_a_method_without_values_is_named(source: Source) -> None:
    path = source.results / "analysis/digits-cfg1.0-s20/natural/errors-w4a4-common.npz"
    arrays = load_arrays(path)
    status = ["failed: no" if label == "tfmq-dm" else "ok" for label in arrays["labels"]]
    save_arrays(path, arrays | {"status": np.array(status)})
    _, drawn = drawn_again(source, SOME[0])
    assert drawn.missing is None and "Missing: W4A4 TFMQ-DM: no values." in drawn.caption


def test_an_analysis_of_another_version_says_so(source: Source) -> None:
    path = source.results / "analysis/digits-cfg1.0-s20/natural/activations.npz"
    arrays = load_arrays(path)
    del arrays["deviation"]
    save_arrays(path, arrays)
    assert "lacks deviation" in drawn_again(source, "blocks-dit-digits-natural")[1].missing
    path.write_bytes(b"damaged")
    assert "cannot be read" in drawn_again(source, "blocks-dit-digits-natural")[1].missing


@pytest.mark.parametrize(
    ("analysis", "figure", "lacking"),
    [
        ("activations", "spread-dit-digits-natural", "record"),
        ("activations", "channels-dit-digits-natural", "roles"),
        ("activations", "salience-timesteps-dit-digits-natural", "timesteps"),
        ("errors-w4a4-common", "errors-timesteps-dit-digits-natural", "timesteps"),
        ("errors-w4a4-common", "errors-layers-dit-digits-natural", "parts"),
    ],
)
def test_any_array_may_be_missing_in_an_analysis(source: Source, analysis: str, figure: str, lacking: str) -> None:
    """Also one that is read only when the figure is drawn: the picture names it, and the other figures are drawn."""
    path = source.results / f"analysis/digits-cfg1.0-s20/natural/{analysis}.npz"
    arrays = load_arrays(path)
    del arrays[lacking]
    save_arrays(path, arrays)
    build_figures(source.profile, source.results, only=[figure])
    entry = listed(source.results)[figure]
    assert f"lacks {lacking}" in (entry["missing"] or entry["caption"]), "a caption names a panel that is left out"


def test_runs_that_are_missing_are_named_and_the_others_drawn(source: Source) -> None:
    shutil.rmtree(source.results / "runs" / "digits-cfg1.0-s20" / "natural" / "q-dit" / "w4a4-common")
    assert "Missing: W4A4 Q-DiT: no samples." in drawn_again(source, SOME[2])[1].caption
    assert "Missing: W4A4 Q-DiT." in drawn_again(source, "sizes-dit-digits-natural-common")[1].caption
