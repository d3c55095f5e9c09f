"""A tool's whole way in a process of its own: a tool of the test, and (where they are installed) the real ones."""

import os
import sys
from pathlib import Path

import pytest

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import load_arrays, read_json
from qdit.models.loading import save_model
from qdit.quant.checkpoint import read_checkpoint
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob
from qdit.sampling.tools.quantizing import ToolJob, quantize_by_tool
from qdit.sampling.tools.registry import KnownTool, tools, tools_of
from qdit.sampling.tools.sampling import ToolSampleJob, sample_tool
from tests.small_models import random_dit

ENVIRONMENT = Path(os.environ.get("QDIT_TOOLS", "results/mini/envs/tools"), "bin/python")
FILE = """
from typing import Any, ClassVar
import sys
from qdit.sampling.tools.contract import Request, Tool

class Rounder(Tool):
    name = printed = "rounder"
    package = "torch"
    licence = "MIT"
    address = "https://example.org"
    bits: ClassVar = {"w8a16": "rounds to bfloat16", "w4a16": "fails"}

    def quantize(self, transformer: Any, request: Request) -> Any:
        import torch
        print("noise on standard output")
        assert "qdit.sampling.run" not in sys.modules
        if request.weight_bits == 4:
            raise ValueError("no 4 bits today")
        for name in request.layers:
            layer = transformer.get_submodule(name).to(torch.bfloat16)
            layer.register_forward_pre_hook(lambda module, args: args[0].bfloat16())
            layer.register_forward_hook(lambda module, args, output: output.float())
        return transformer
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def rounder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownTool:
    (tmp_path / "rounder_tool.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = tools_of("rounder_tool", None)[0]
    monkeypatch.setattr("qdit.sampling.tools.quantizing.find_tool", {**tools(), "rounder": known}.__getitem__)
    return known


def sampled(folder: Path, job: ToolJob, weights: Path) -> dict[str, object]:
    quantize_by_tool(weights, folder / "tool", job)
    sampling = SampleJob(folder / "tool", folder / "samples", Protocol(steps=2), samples=6, chunk=4)
    sample_tool(ToolSampleJob(sampling, job.python))
    listing: dict[str, object] = read_json(folder / "samples/shard-000.json")
    return listing


def test_a_tool_of_one_file_quantizes_and_samples(rounder: KnownTool, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_model(weights, random_dit())
    job = ToolJob("rounder", Path(sys.executable), "w8a16")
    listing = sampled(tmp_path, job, weights)
    assert listing["mode"] == "tool" and str(listing["backend"]).startswith("torch 2")
    chunk = load_arrays(tmp_path / "samples/00001.npz")
    assert chunk["images"].shape == (2, 1, 8, 8) and int(chunk["first"]) == 4
    again = sampled(tmp_path / "again", job, weights)
    assert [entry["sha256"] for entry in listing["chunks"]] == [entry["sha256"] for entry in again["chunks"]]  # type: ignore[attr-defined, index]
    with pytest.raises(CheckpointError, match="was quantized by rounder, .* sample it with `qdit tools sample`"):
        read_checkpoint(tmp_path / "tool")
    with pytest.raises(Exception, match="rounder: ValueError: no 4 bits today"):
        quantize_by_tool(weights, tmp_path / "four", ToolJob("rounder", Path(sys.executable), "w4a16"))


def test_a_missing_environment_or_package_is_said(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_model(weights, random_dit())
    with pytest.raises(DataError, match=r"no Python of an environment with torchao is there; `qdit tools install"):
        quantize_by_tool(weights, tmp_path / "a", ToolJob("torchao", tmp_path / "python", "w8a8"))
    with pytest.raises(ConfigError, match="torchao: ModuleNotFoundError: No module named 'torchao'"):
        quantize_by_tool(weights, tmp_path / "b", ToolJob("torchao", Path(sys.executable), "w8a8"))


@pytest.mark.skipif(not ENVIRONMENT.is_file(), reason="qdit tools install results/mini/envs/tools")
@pytest.mark.parametrize("name", ["torchao", "optimum-quanto", "sdnq"])
def test_a_real_tool_quantizes_the_miniature(name: str, tmp_path: Path) -> None:
    job = ToolJob(name, ENVIRONMENT.absolute(), "w4a16")
    listing = sampled(tmp_path, job, Path("weights/dit-digits-natural.safetensors"))
    facts = read_json(tmp_path / "tool/config.json")["tool"]
    assert listing["mode"] == "tool" and facts["layers"] == 42
    assert facts["memory_bytes"] < facts["float_bytes"] and facts["versions"][facts["package"]]
