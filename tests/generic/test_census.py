"""`qdit models`: what the roles cover in the classes of diffusers, and the page that lists them."""

from pathlib import Path

import pytest

from qdit.core.errors import CheckpointError
from qdit.models.generic.census import Coverage, census, class_names, coverage
from qdit.workflow.model_classes import HEADINGS, cells, class_text, classes_markdown, classes_text, quoted, summary
from tests.small_transformers import ZOO

NAMES = ("FluxTransformer2DModel", "WanTransformer3DModel", "SanaTransformer2DModel", "DreamLiteTransformer2DModel")


@pytest.fixture(scope="module")
def found() -> dict[str, Coverage]:
    return {name: coverage(name) for name in NAMES}


def test_the_classes_of_the_tests_are_known() -> None:
    assert {tiny.class_name for tiny in ZOO.values()} <= set(class_names())
    with pytest.raises(CheckpointError, match="`qdit models` lists them"):
        coverage("AutoencoderKL")


def test_a_line_says_what_is_missing(found: dict[str, Coverage]) -> None:
    assert found["FluxTransformer2DModel"].share == 1 and not found["FluxTransformer2DModel"].missing
    assert cells(found["SanaTransformer2DModel"])[-1] == "transformer_blocks.*.ff.conv_depth"
    assert cells(found["DreamLiteTransformer2DModel"])[-1].startswith("not built: ")
    text = classes_text(list(found.values()))
    assert text.splitlines()[0].split("  ")[0] == HEADINGS[0] and "4 classes: 3 have roles" in text
    assert "pipeline: WanPipeline" in class_text(found["WanTransformer3DModel"])
    assert "cannot be built" in class_text(found["DreamLiteTransformer2DModel"])


def test_the_page_has_the_lines_of_the_command(found: dict[str, Coverage], repository: Path) -> None:
    lines = (repository / "docs" / "model-classes.md").read_text().splitlines()
    for known in found.values():
        assert f"| {' | '.join(quoted(cells(known)))} |" in lines


@pytest.mark.slow
def test_the_page_is_what_the_command_writes(repository: Path) -> None:
    page = (repository / "docs" / "model-classes.md").read_text()
    everything = list(census())
    assert page == classes_markdown(everything) + "\n"
    assert summary(everything) in page
    assert sum(known.share >= 0.99 for known in everything) >= 50
