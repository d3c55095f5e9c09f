"""docs/compare.md to the letter: the commands about images are run, and the tool of the page is a tool."""

import shlex
from pathlib import Path

import pytest

from qdit.cli.main import app
from qdit.core.files import read_json
from qdit.workflow.profile import load_profile, runs_of
from tests.docs.commands import blocks, text_of, titled

DOCUMENT = "docs/compare.md"


@pytest.mark.slow
def test_the_commands_about_images_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = next(block for block in blocks(text_of(DOCUMENT), "sh") if "import-samples" in block)
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "qdit"
        app(words[1:], standalone_mode=False, prog_name="qdit")
    content = read_json(tmp_path / "metrics.json")
    assert content["metrics"]["mse_fp"] == 0 and content["run"]["weight_bits"] == 4


def test_the_overlay_of_the_page_is_a_profile(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(titled(text_of(DOCUMENT))["mine.yaml"])
    profile = load_profile(tmp_path / "mine.yaml")
    assert [run.path.split("/")[2] for run in runs_of(profile, "mine")] == ["fp", "rtn-g16-dynamic", "mine"]


def test_the_tool_of_the_page_is_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qdit.sampling.tools.registry import tools_of

    (tmp_path / "my_tool.py").write_text(titled(text_of(DOCUMENT))["my_tool.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    tool = tools_of("my_tool", "MyTool")[0].tool
    assert tool.name == "my-tool" and tool.refusal("w8a16") is None
    assert tool.refusal("w8a8") == "My tool: it does not quantize activations (it does W8A16)"
