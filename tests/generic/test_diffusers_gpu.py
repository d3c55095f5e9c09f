"""Quantized transformers of diffusers on a GPU: every precision, device_map, torch.compile, save and load. Slow."""

import copy
import importlib
from pathlib import Path

import pytest
import torch

from qdit.methods.any_model import quantize_transformer
from qdit.quant.checkpoint import save_checkpoint
from qdit.quant.packed import resident_bytes
from tests.lazy import LazyModule
from tests.small_transformers import ZOO, in_type, keywords, tiny_transformer

diffusers = LazyModule("diffusers")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DTYPES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Type → largest relative distance to the CPU's output. A code on a border of rounding may differ."""


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Our quantizer in diffusers, and products in full float32."""
    importlib.import_module("qdit.diffusers")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function family → the folder of its transformer, quantized at W4A8 in groups, and its class."""
    root, known = tmp_path_factory.mktemp("quantized"), {}

    def folder_of(family):
        if family not in known:
            options = {"activation": "dynamic", "group_size": 8}
            result = quantize_transformer(tiny_transformer(family), "rtn", options=options)
            save_checkpoint(root / family, result, {"method": "rtn"})
            known[family] = root / family
        return known[family], getattr(diffusers, ZOO[family].class_name)

    return folder_of


def output_of(model, family, dtype, device):
    """Output for a fixed batch, in float32 on the CPU."""
    batch = keywords(family, seed=5).to(torch.device(device))
    with torch.no_grad():
        return model(**in_type(batch.arguments(), dtype, family), return_dict=False)[0].float().cpu()


def apart(output, expected):
    """Relative distance of two outputs."""
    return float((output - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ZOO)
def test_a_gpu_gives_the_output_of_the_cpu(family, dtype, saved, tmp_path: Path) -> None:
    folder, model_class = saved(family)
    on_cpu = model_class.from_pretrained(folder, torch_dtype=dtype)
    on_gpu = model_class.from_pretrained(folder, torch_dtype=dtype, device_map="cuda")
    assert {tensor.device.type for tensor in [*on_gpu.parameters(), *on_gpu.buffers()]} == {"cuda"}
    assert resident_bytes(on_gpu) == resident_bytes(on_cpu)
    output = output_of(on_gpu, family, dtype, "cuda")
    assert output.isfinite().all()
    assert apart(output, output_of(on_cpu, family, dtype, "cpu")) < DTYPES[dtype]
    on_gpu.save_pretrained(tmp_path / "again")
    again = model_class.from_pretrained(tmp_path / "again", torch_dtype=dtype).to("cuda")
    for model in (again, copy.deepcopy(on_gpu)):
        assert torch.equal(output_of(model, family, dtype, "cuda"), output)


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_blocks_compile_on_a_gpu_without_a_graph_break(family, saved) -> None:
    folder, model_class = saved(family)
    model = model_class.from_pretrained(folder, device_map="cuda")
    expected = output_of(model, family, torch.float32, "cuda")
    torch._dynamo.reset()
    model.compile_repeated_blocks(fullgraph=True)
    assert apart(output_of(model, family, torch.float32, "cuda"), expected) < 1e-3
