"""Quantized transformers in diffusers: `from_pretrained` of their own class loads what `qdit quantize` wrote."""

import copy
import importlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.core.files import load_tensors, save_tensors, write_json
from qdit.methods.any_model import quantize_transformer
from qdit.models.roles import replace
from qdit.quant.batches import run
from qdit.quant.checkpoint import load_checkpoint, quantized_sites, read_checkpoint, save_checkpoint
from qdit.quant.diffusers_layers import DiffusersConv, DiffusersLinear
from qdit.quant.folder import with_digest
from qdit.quant.integer import IntegerLinear
from qdit.quant.packed import resident_bytes
from qdit.quant.sites import QuantizedConv, in_float32
from tests.lazy import LazyModule
from tests.pretended_gpu import pretended_gpu
from tests.small_pipelines import flow_scheduler, tiny_pipeline_class
from tests.small_transformers import ZOO, in_type, keywords, tiny_transformer

diffusers = LazyModule("diffusers")

OPTIONS = {
    "rtn": {"activation": "dynamic", "group_size": 8},
    "rtn static": {"activation": "static"},
    "repq-vit own": {"reparametrize": False},
    "repq-vit folded": {},
    "q-dit": {"group_size": 8},
    "ptq4dit": {"csb": False, "iterations": 2, "batch": 2},
    "ptq4dit folded": {"iterations": 2, "batch": 2},
    "svdquant": {"rank": 2, "group_size": 8},
    "mxfp4": {"block_size": 8},
    "tfmq-dm": {"tiar": False, "iterations": 2, "batch": 2},
}
"""Method, with a word that says what is special → its options. `own` is the scope."""
EVERYWHERE = ("rtn", "q-dit", "ptq4dit")
"""Rounding, GPTQ in groups with dynamic inputs, learned rounding: on all families."""
OTHERS = {
    "flux": ("rtn static", "svdquant"),
    "wan": ("mxfp4", "repq-vit folded"),
    "pixart": ("repq-vit own", "repq-vit folded"),
    "cogvideox": ("repq-vit folded",),
    "sd3": ("tfmq-dm", "repq-vit own"),
    "sana": ("svdquant", "ptq4dit folded", "repq-vit folded"),
    **dict.fromkeys(("lumina2", "hunyuan-dit", "auraflow", "chroma", "flux2"), ("repq-vit folded",)),
}
"""What else is tried on some families."""
ROOT = Path(__file__).parents[2]
CASES = [(family, method) for family in ZOO for method in (*EVERYWHERE, *OTHERS.get(family, ()))]
FEW = [(family, method) for family, method in CASES if family in ("flux", "wan")]


def all_families(*quick):
    """All families, as parameters of a test. Only the named ones are not slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in ZOO]


SEED = 5
"""Seed of the inputs that outputs are compared for."""
WEIGHTS = "diffusion_pytorch_model.safetensors"

FRESH = """
import sys, types
from pathlib import Path
import torch
torch.set_num_threads(1)
tests = sys.modules["tests"] = types.ModuleType("tests")
tests.__path__ = ["tests"]
from tests.pretended_gpu import pretended_gpu
from tests.small_pipelines import flow_scheduler, tiny_pipeline_class
from tests.small_transformers import ZOO, keywords
import diffusers
import qdit.diffusers
from qdit.core.files import save_tensors
outputs = {}
for case in sys.argv[2:]:
    family = case.split("/")[0]
    model = getattr(diffusers, ZOO[family].class_name).from_pretrained(f"{sys.argv[1]}/{case}")
    with torch.no_grad():
        outputs[case] = model(**keywords(family, seed=SEED).arguments(), return_dict=False)[0]
save_tensors(Path(sys.argv[1]) / "outputs.safetensors", outputs)
""".replace("SEED", str(SEED))


@pytest.fixture(autouse=True)
def registered():
    """Our quantizer in diffusers."""
    importlib.import_module("qdit.diffusers")


@cache
def quantized(family, method="rtn"):
    """A tiny transformer, quantized in memory with W4A8."""
    batch = keywords(family, count=4, seed=2)
    return quantize_transformer(
        tiny_transformer(family),
        method.split()[0],
        scope="own" if method.endswith("own") else "common",
        samples=batch.samples,
        shared=batch.shared,
        options=OPTIONS[method],
    )


def saved(folder, family, method="rtn"):
    """The folder of a quantized transformer, and its class."""
    save_checkpoint(folder, quantized(family, method), {"method": method})
    return folder, getattr(diffusers, ZOO[family].class_name)


def output_of(model, family, **more):
    with torch.no_grad():
        return model(**keywords(family, seed=SEED).arguments(), **more, return_dict=False)[0]


def in_memory(family, method="rtn"):
    return output_of(quantized(family, method).model.transformer, family)


@pytest.mark.parametrize(
    "cases", [pytest.param(FEW, marks=pytest.mark.ci), pytest.param(CASES, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_fresh_process_loads_each_transformer_with_the_same_bits(cases, tmp_path: Path) -> None:
    for family, method in cases:
        saved(tmp_path / family / method, family, method)
    names = [f"{family}/{method}" for family, method in cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", FRESH, tmp_path, *names], check=True, cwd=ROOT, env=environment)
    outputs, _ = load_tensors(tmp_path / "outputs.safetensors")
    assert outputs.keys() == set(names)
    for family, method in cases:
        assert torch.equal(outputs[f"{family}/{method}"], in_memory(family, method)), (family, method)
        full = output_of(tiny_transformer(family), family)
        assert outputs[f"{family}/{method}"].isfinite().all() and not torch.equal(in_memory(family, method), full)


def test_the_command_writes_such_a_folder_and_reads_it(tmp_path: Path) -> None:
    tiny_transformer("flux").save_pretrained(tmp_path / "pipeline" / "transformer")
    write_json(tmp_path / "pipeline" / "model_index.json", {"_class_name": "FluxPipeline"})
    options = json.dumps(OPTIONS["rtn"])
    words = ["quantize", str(tmp_path / "pipeline"), str(tmp_path / "out"), "--method", "rtn", "--options", options]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "sites quantized" in result.output
    loaded = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path / "out")
    expected = in_memory("flux")
    assert torch.equal(output_of(loaded, "flux"), expected)
    model, _, config = read_checkpoint(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(run(model, keywords("flux", seed=SEED)), expected)
    assert config["record"]["weight_bits"] == 4
    with pytest.raises(ConfigError, match="holds a FluxTransformer2DModel.*its own pipeline"):
        load_checkpoint(tmp_path / "out")


def test_it_is_small_on_disk_and_in_memory(tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", "sana")
    loaded = model_class.from_pretrained(folder)
    types = (DiffusersLinear, DiffusersConv)
    layers = {name: module for name, module in loaded.named_modules() if isinstance(module, types)}
    assert layers.keys() == quantized_sites(quantized("sana").model).keys()
    assert any(isinstance(module, DiffusersConv) for module in layers.values())
    for module in layers.values():
        width = module.shape[1]
        assert module.codes.numel() == module.shape[0] * width // 2
        assert sum(t.nbytes for t in module.buffers()) <= module.shape[0] * (width / 2 + 4 * width / 8 + 4)
    full = tiny_transformer("sana")
    other = resident_bytes(full) - sum(4 * m.shape[0] * m.shape[1] for m in layers.values())
    packed = sum(m.codes.nbytes + m.scale.nbytes + m.zero_point.nbytes for m in layers.values())
    assert resident_bytes(loaded) == other + packed
    assert (folder / WEIGHTS).stat().st_size < 1.2 * resident_bytes(loaded)


class Reference(nn.Module):
    """A quantized layer in half precision, from its definition: quantizer in float32, product in half precision."""

    def __init__(self, module, dtype):
        super().__init__()
        self.module, self.dtype = module, dtype
        self.kernel = module.kernel if isinstance(module, QuantizedConv) else None

    def forward(self, x):
        assert x.dtype == self.dtype
        pointwise = self.kernel is not None and set(self.kernel) == {1}
        x = x.movedim(1, -1) if pointwise else x
        x = in_float32(self.module.activation, x).to(self.dtype)
        weight, bias = self.module.weight.to(self.dtype), self.module.bias
        y = F.linear(x, weight, None if bias is None else bias.to(self.dtype))
        return y.movedim(-1, 1) if pointwise else y


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", all_families("flux", "wan", "sana"))
def test_half_precision(family, dtype, tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", family)
    tiny_transformer(family).save_pretrained(tmp_path / "full")
    loaded = model_class.from_pretrained(folder, torch_dtype=dtype)
    reference = model_class.from_pretrained(tmp_path / "full", torch_dtype=dtype)
    for name, module in quantized_sites(quantized(family).model).items():
        replace(reference, name, Reference(module, dtype))
    for name, parameter in reference.named_parameters():
        assert loaded.get_parameter(name).dtype == parameter.dtype, name
    arguments = in_type(keywords(family, seed=SEED).arguments(), dtype, family)
    with torch.no_grad():
        result, expected = (model(**arguments, return_dict=False)[0] for model in (loaded, reference))
    assert result.dtype == expected.dtype == dtype and torch.equal(result, expected)
    loaded.save_pretrained(tmp_path / "again")
    again = model_class.from_pretrained(tmp_path / "again", torch_dtype=dtype)
    with torch.no_grad():
        assert torch.equal(again(**arguments, return_dict=False)[0], expected)


@pytest.mark.parametrize(
    ("family", "method"), [("flux", "svdquant"), ("sana", "rtn"), ("sana", "svdquant"), ("pixart", "q-dit")]
)
def test_its_layers_multiply_integers(family, method, tmp_path: Path) -> None:
    ours, expected = importlib.import_module("qdit.diffusers"), in_memory(family, method)
    folder, model_class = saved(tmp_path / "saved", family, method)
    loaded = ours.integer(model_class.from_pretrained(folder))
    layers = [module for module in loaded.modules() if isinstance(module, IntegerLinear)]
    assert len(layers) == len(quantized_sites(quantized(family, method).model))
    size, result = expected.abs().max(), output_of(loaded, family)
    assert not torch.equal(result, expected) and (result - expected).abs().max() < 0.05 * size
    arguments = {
        name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() and name != "timestep" else value
        for name, value in keywords(family, seed=SEED).arguments().items()
    }
    half = model_class.from_pretrained(folder, torch_dtype=torch.bfloat16)
    with torch.no_grad():
        expected = half(**arguments, return_dict=False)[0]
        result = ours.integer(half)(**arguments, return_dict=False)[0]
    assert result.dtype == torch.bfloat16 and (result - expected).abs().max() < 0.1 * size


@pytest.mark.parametrize("family", all_families("flux", "sana"))
def test_it_can_be_saved_copied_and_put_on_a_device(family, tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", family)
    loaded = model_class.from_pretrained(folder, device_map="cpu")
    loaded.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    again = model_class.from_pretrained(tmp_path / "again")
    for model in (loaded, again, copy.deepcopy(loaded), loaded.to("cpu")):
        assert type(model) is model_class and not model.training
        assert torch.equal(output_of(model, family), in_memory(family))
    with pytest.raises(Unsupported, match="device_map over 2 devices"):
        model_class.from_pretrained(folder, device_map={"": "cpu", "transformer_blocks": "meta"})


def test_it_moves_as_a_whole(tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", "wan")
    loaded = model_class.from_pretrained(folder, torch_dtype=torch.float16)
    types = {name: tensor.dtype for name, tensor in loaded.state_dict().items()}
    with pretended_gpu() as gpu:
        loaded = loaded.to(gpu)
        assert {tensor.device for tensor in [*loaded.parameters(), *loaded.buffers()]} == {gpu}
        loaded = nn.Module.to(loaded, torch.bfloat16)  # what diffusers itself refuses for a quantized model
        layers = quantized_sites(loaded)
        for name, tensor in loaded.state_dict().items():
            assert tensor.dtype == (types[name] if name.startswith(tuple(layers)) else torch.bfloat16), name


@pytest.mark.parametrize("family", all_families("wan"))
def test_a_block_compiles_without_a_graph_break(family, tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", family)
    loaded = model_class.from_pretrained(folder)
    torch._dynamo.reset()
    for path in quantized(family).model.block_paths:
        loaded.get_submodule(path).compile(fullgraph=True, backend="eager")
    assert torch.equal(output_of(loaded, family), in_memory(family))


def test_it_runs_in_its_own_pipeline_folder(tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", "flux")
    pipeline_class = tiny_pipeline_class()
    first = pipeline_class(model_class.from_pretrained(folder), flow_scheduler(), None)
    first.save_pretrained(tmp_path / "pipeline")
    second = pipeline_class.from_pretrained(tmp_path / "pipeline")
    third = pipeline_class.from_pretrained(tmp_path / "pipeline", torch_dtype=torch.bfloat16)
    latents = [
        pipeline("a bird", num_inference_steps=2, generator=torch.Generator().manual_seed(1)).images
        for pipeline in (first, second, third)
    ]
    assert isinstance(second.transformer, model_class) and quantized_sites(second.transformer)
    assert latents[0].isfinite().all() and torch.equal(latents[0], latents[1])
    assert latents[2].dtype == torch.bfloat16 and latents[2].isfinite().all()


def test_a_lora_is_refused_in_a_line(tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", "flux")
    loaded = model_class.from_pretrained(folder)
    for attempt in (loaded.load_lora_adapter, loaded.add_adapter):
        with pytest.raises(Unsupported, match="LoRA on a quantized transformer.*quantize those") as raised:
            attempt({})
        assert "\n" not in str(raised.value)


def damaged(folder: Path, damage: str) -> str:
    """Damage a folder; return what the error must say."""
    file, weights = folder / "config.json", folder / WEIGHTS
    config = json.loads(file.read_text())
    checkpoint = config["quantization_config"]["checkpoint"]
    tensors, _ = load_tensors(weights)
    if damage == "flipped bit":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
        return "sha256"
    if damage == "missing tensor":
        (folder / "manifest.json").unlink()
        save_tensors(weights, {name: t for name, t in tensors.items() if not name.endswith("ff.net.2.codes")})
        return "codes"
    if damage == "unexpected tensor":
        (folder / "manifest.json").unlink()
        save_tensors(weights, tensors | {"another": torch.zeros(1)})
        return "unexpected tensors .'another'"
    if damage == "edited":
        checkpoint["sites"]["transformer_blocks.0.attn.to_q"]["weight_bits"] = 2
        message = "edited by hand or damaged"
    elif damage == "another class":
        checkpoint["model"]["config"]["class_name"] = "WanTransformer3DModel"
        message = "checkpoint of a WanTransformer3DModel, loaded as a FluxTransformer2DModel"
    elif damage == "another width":
        config["pooled_projection_dim"] += 1
        message = "says pooled_projection_dim 9, its tensors are of pooled_projection_dim 8"
    else:
        checkpoint["sites"]["transformer_blocks.0.attn.to_q"]["kind"] = "other"
        message = "site kind 'other'"
    if damage != "edited":
        checkpoint |= with_digest({name: value for name, value in checkpoint.items() if name != "sha256"})
    write_json(file, config)
    return message


DAMAGES = ("flipped bit", "missing tensor", "unexpected tensor", "edited", "another class", "another width", "kind")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_in_a_line(damage, tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", "flux")
    message = damaged(folder, damage)
    with pytest.raises(CheckpointError, match=message) as raised:
        model_class.from_pretrained(folder)
    assert "\n" not in str(raised.value)


def test_pickled_weights_and_other_types_are_refused(tmp_path: Path) -> None:
    folder, model_class = saved(tmp_path / "saved", "flux")
    with pytest.raises(Unsupported, match="allowed are float32, float16 and bfloat16"):
        model_class.from_pretrained(folder, torch_dtype=torch.float64)
    tensors, _ = load_tensors(folder / WEIGHTS)
    torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="pickled weights are never used"):
        model_class.from_pretrained(folder)
