"""The lines for FLUX and Wan in docs/diffusers.md, with tiny random pipelines in the place of the real ones."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.quant.checkpoint import quantized_sites
from tests.small_pipelines import flow_scheduler, tiny_pipeline_class
from tests.small_transformers import tiny_transformer

MOST_LINES = 10
CASES = {"flux": ("FLUX.1-dev", "FluxPipeline"), "wan": ("Wan2.1-T2V-1.3B-Diffusers", "WanPipeline")}
"""Family → folder and pipeline of its lines."""


def lines_of_the_page(repository: Path, title: str) -> str:
    page = (repository / "docs" / "diffusers.md").read_text()
    (code,) = re.findall(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', page, flags=re.DOTALL)
    return code


@pytest.mark.parametrize("family", CASES)
def test_the_lines_work(family, repository: Path, tmp_path: Path, monkeypatch) -> None:
    import diffusers

    folder, pipeline_name = CASES[family]
    pipeline_class = tiny_pipeline_class(pipeline_name)
    monkeypatch.setattr(diffusers, pipeline_name, pipeline_class)
    monkeypatch.chdir(tmp_path)
    pipeline_class(tiny_transformer(family), flow_scheduler(), None).save_pretrained(folder)
    Path("prompts.txt").write_text("a bird\ntwo red boats\n")
    commands, code = (lines_of_the_page(repository, f"{family}.{suffix}") for suffix in ("sh", "py"))
    joined = commands.replace("\\\n", " ").strip().splitlines()
    assert len([line for line in [*joined, *code.splitlines()] if line.strip()]) <= MOST_LINES
    for line in joined:
        program, *words = shlex.split(line.replace("--device cuda", ""))
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert program == "qdit" and result.exit_code == 0, result.output
    namespace: dict[str, object] = {}
    exec(code.replace('.to("cuda")', ""), namespace)
    output = namespace["image" if family == "flux" else "frames"]
    assert isinstance(output, torch.Tensor) and output.dtype == torch.bfloat16 and output.isfinite().all()
    assert quantized_sites(namespace["transformer"])  # type: ignore[arg-type]
