"""Tools: what each says of itself, and that one file adds one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdit.core.errors import ConfigError, Unsupported
from qdit.sampling.tools.contract import Request, Tool
from qdit.sampling.tools.quantizing import ToolJob, layers_of
from qdit.sampling.tools.registry import find_tool, tools

FILE = '''
from typing import Any, ClassVar
from qdit.sampling.tools.contract import Request, Tool

class Halves(Tool):
    """Rounds weights to bfloat16."""
    name = "halves"
    printed = "Halves"
    package = "torch"
    licence = "MIT"
    address = "https://example.org"
    bits: ClassVar = {"w4a16": "rounds"}
    cannot: ClassVar = {"w4a8": "it has no activations"}
    calibrated: ClassVar = ()

    def quantize(self, transformer: Any, request: Request) -> Any:
        return transformer
'''


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that offers a tool, installed as pip would do it: its file, and its entry point."""
    (tmp_path / "halves_tool.py").write_text(FILE)
    (tmp_path / "halves-1.dist-info").mkdir()
    (tmp_path / "halves-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1\n")
    (tmp_path / "halves-1.dist-info/entry_points.txt").write_text("[qdit.tools]\nhalves = halves_tool:Halves\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tools.cache_clear()
    yield tmp_path / "halves_tool.py"
    sys.modules.pop("halves_tool", None)
    tools.cache_clear()


def test_one_file_adds_a_tool(offered: Path) -> None:
    assert set(tools()) == {"halves", "torchao", "optimum-quanto", "sdnq"}
    assert find_tool("halves").path == offered
    ToolJob("halves", Path("python"), "w4a16").require_possible()
    with pytest.raises(Unsupported, match=r"Halves: it has no activations \(it does W4A16\)"):
        ToolJob("halves", Path("python"), "w4a8").require_possible()
    with pytest.raises(Unsupported, match=r"Halves: has no such bits"):
        ToolJob("halves", Path("python"), "w2a16").require_possible()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('    licence = "MIT"\n', "", "class Halves has no licence; add licence"),
        ('{"w4a16": "rounds"}', "{}", "class Halves does no bits"),
        ('"w4a16"', '"w9a16"', "w9a16"),
        ('"halves"', '"sdnq"', "a tool named 'sdnq' exists already"),
        ("class Halves", "class Others", "holds no class of a Tool"),
        ("from typing", "from nowhere", "tool file halves_tool: ModuleNotFoundError"),
    ],
)
def test_a_tool_that_says_too_little_is_refused(offered: Path, old: str, new: str, words: str) -> None:
    offered.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        tools()


def test_known_tools_say_what_they_do_without_their_package() -> None:
    assert set(tools()) >= {"torchao", "optimum-quanto", "sdnq"}
    for name, known in tools().items():
        assert {"w8a8", "w4a8", "w4a16"} <= {*known.tool.bits, *known.tool.cannot}, name
        assert known.tool.address.startswith("https://") and known.tool.licence
    assert not {"torchao", "sdnq", "optimum.quanto"} & set(sys.modules)
    assert tools()["sdnq"].tool.licence == "GPL-3.0-only"
    with pytest.raises(ConfigError, match=r"tool 'torcha': allowed are .*; did you mean 'torchao'"):
        find_tool("torcha")


def test_a_tool_that_measures_ranges_needs_calibration_data() -> None:
    with pytest.raises(ConfigError, match="optimum-quanto: measures ranges of activations at w8a8; give --calibration"):
        ToolJob("optimum-quanto", Path("python"), "w8a8").require_possible()
    ToolJob("optimum-quanto", Path("python"), "w4a16").require_possible()


def test_layers_are_the_four_linears_of_every_block() -> None:
    names = layers_of(2)
    assert len(names) == 2 * 6 and names[0] == "transformer_blocks.0.attn1.to_q"
    assert {name.split(".", 2)[2] for name in names} == {
        *("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
        *("ff.net.0.proj", "ff.net.2"),
    }


def test_a_request_says_its_bits() -> None:
    assert Request(4, 8, [], lambda: None).bits == "w4a8"
    assert issubclass(type(find_tool("torchao").tool), Tool)
