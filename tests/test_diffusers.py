"""Quantized checkpoints in diffusers: the same output bits after export, load and save, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.files import load_tensors, sha256_file, write_json
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.folder import with_digest
from tests.lazy import LazyModule
from tests.pretended_gpu import pretended_gpu
from tests.small_models import TINY, calibration_set, inputs, random_dit

diffusers = LazyModule("diffusers")
ours = LazyModule("qdit.diffusers")

IMAGENET = DiTConfig(input_size=8, in_channels=4, hidden_size=48, depth=2, num_heads=2, num_classes=1000)
CASES = {  # method, bits, scope, options, kind of calibration: grouped, static, folded, per timestep, operands
    "q-dit": (4, 8, "common", {"group_size": 16}, "trajectory"),
    "rtn": (8, 8, "common", {}, "trajectory"),
    "repq-vit": (6, 6, "own", {}, "uniform"),
    "tq-dit": (6, 6, "own", {"per_group": 2, "rounds": 1, "groups": 2}, "per-step"),
}


@pytest.fixture(autouse=True)
def _the_quantizer_is_entered() -> None:
    """diffusers knows the quantizer once `qdit.diffusers` is imported."""
    assert ours.QditQuantizer


def saved_checkpoint(folder: Path, method: str, config: DiTConfig = TINY) -> Path:
    """A checkpoint of a small random model."""
    weights, activations, scope, options, kind = CASES[method]
    quantized = quantize_model(
        random_dit(config),
        method,
        weight_bits=weights,
        activation_bits=activations,
        scope=scope,
        calibration={kind: calibration_set(kind, config=config, samples=4)},
        options=options,
    )
    save_checkpoint(folder, quantized, {"method": method})
    return folder


@pytest.mark.parametrize("method", CASES)
def test_every_way_through_diffusers_gives_the_same_bits(method: str, tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(tmp_path / "checkpoint", method)
    x, t, y = inputs()
    with torch.no_grad():
        expected = load_checkpoint(checkpoint).model(x, t, y)
        ours.export_checkpoint(checkpoint, tmp_path / "exported")
        loaded = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "exported")
        loaded.save_pretrained(tmp_path / "saved")
        again = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "saved")
        direct = ours.from_checkpoint(checkpoint)
        direct.save_pretrained(tmp_path / "direct")
        last = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "direct")
        for model in (loaded, again, direct, last, copy.deepcopy(loaded)):
            assert isinstance(model, diffusers.DiTTransformer2DModel) and not model.training
            assert torch.equal(model(x, timestep=t, class_labels=y).sample, expected)
            assert torch.equal(model(x, t, y, return_dict=False)[0], expected)
    assert not torch.equal(expected, random_dit()(x, t, y))  # something was quantized


@pytest.mark.parametrize("method", ["q-dit", "rtn"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_transformer_multiplies_integers(method: str, packed: bool, tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(tmp_path / "checkpoint", method)
    x, t, y = inputs()
    with torch.no_grad():
        expected = ours.from_checkpoint(checkpoint)(x, t, y).sample
        model = ours.integer(ours.from_checkpoint(checkpoint, packed=packed))
        result = model(x, t, y).sample
        assert 0 < (result - expected).abs().max() < 0.05 * expected.abs().max()
        with pretended_gpu() as gpu:
            there = model.to(gpu)(x.to(gpu), t.to(gpu), y.to(gpu)).sample.cpu()
    assert (there - expected).abs().max() < 0.05 * expected.abs().max()
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path / "saved")


def test_what_has_no_integer_kernel_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"blocks\.0\.attn\.q: quantized operands of attention"):
        ours.integer(ours.from_checkpoint(saved_checkpoint(tmp_path / "checkpoint", "tq-dit")))
    with pytest.raises(Unsupported, match="that is not quantized has no integers"):
        ours.integer(torch.nn.Linear(2, 2))


def test_saved_folders_hold_the_packed_tensors(tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(tmp_path / "checkpoint", "q-dit")
    ours.export_checkpoint(checkpoint, tmp_path / "exported")
    model = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "exported")
    model.save_pretrained(tmp_path / "saved")
    stored, _ = load_tensors(checkpoint / "model.safetensors")
    for folder in ("exported", "saved"):
        stored_again, _ = load_tensors(tmp_path / folder / "diffusion_pytorch_model.safetensors")
        assert stored_again.keys() == stored.keys()
        assert all(
            stored_again[name].dtype == t.dtype and torch.equal(stored_again[name], t) for name, t in stored.items()
        )
    assert stored_again["blocks.0.mlp.fc1.codes"].numel() == 4 * 48 * 48 // 2  # two codes of four bits in a byte
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["_class_name"] == "DiTTransformer2DModel"
    assert config["quantization_config"]["quant_method"] == "qdit"
    assert config["quantization_config"]["checkpoint"]["record"] == {"method": "q-dit"}


def small_vae() -> torch.nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, sample_size=8, latent_channels=4
    )


def test_it_runs_in_a_pipeline_that_can_be_saved(tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(tmp_path / "checkpoint", "q-dit", IMAGENET)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)

    def images(transformer: torch.nn.Module, vae: torch.nn.Module) -> torch.Tensor:
        pipeline = diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        draw = torch.Generator().manual_seed(3)
        return pipeline([1, 207], guidance_scale=1.5, generator=draw, num_inference_steps=2, output_type="pt").images

    ours.export_checkpoint(checkpoint, tmp_path / "exported")
    transformer = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "exported")
    vae = small_vae()
    expected = images(transformer, vae)
    assert expected.shape == (2, 3, 8, 8) and expected.isfinite().all()
    diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler).save_pretrained(tmp_path / "pipeline")
    index = json.loads((tmp_path / "pipeline" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    loaded = diffusers.DiTPipeline.from_pretrained(tmp_path / "pipeline")
    assert torch.equal(images(loaded.transformer, loaded.vae), expected)


def test_one_device_may_be_asked_for(tmp_path: Path) -> None:
    ours.export_checkpoint(saved_checkpoint(tmp_path / "checkpoint", "rtn"), tmp_path / "exported")
    model = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "exported", device_map="cpu")
    x, t, y = inputs()
    with torch.no_grad():
        assert torch.equal(model(x, t, y).sample, load_checkpoint(tmp_path / "checkpoint").model(x, t, y))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("method", CASES)
def test_a_loaded_transformer_moves_as_a_whole(method: str, packed: bool, tmp_path: Path) -> None:
    checkpoint, (x, t, y) = saved_checkpoint(tmp_path / "checkpoint", method), inputs()
    model = ours.from_checkpoint(checkpoint, packed=packed)
    with torch.no_grad():
        expected = model(x, t, y).sample
        with pretended_gpu() as gpu:
            model = model.to(gpu)
            assert {tensor.device for tensor in [*model.parameters(), *model.buffers()]} == {gpu}
            result = model(x.to(gpu), t.to(gpu), y.to(gpu)).sample.cpu()
    assert ((result - expected).abs() > 1e-3 + 0.02 * expected.abs()).float().mean() < 0.05  # few codes differ


DAMAGES = ("flipped bit", "missing tensor", "other sites", "older format", "half precision", "not quantized yet")
DAMAGES += ("fewer activation bits", "another label count", "another record", "no digest")


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_loaded_is_said_in_one_line(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    config_file, weights, manifest = ours.export_checkpoint(saved_checkpoint(tmp_path / "checkpoint", "rtn"), folder)
    config = json.loads(config_file.read_text())
    described = config["quantization_config"]["checkpoint"]
    arguments: dict[str, object] = {}
    if damage == "flipped bit":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
        message, error = "sha256", CheckpointError
    elif damage == "missing tensor":
        from qdit.core.files import save_tensors

        tensors, _ = load_tensors(weights)
        save_tensors(weights, {name: t for name, t in tensors.items() if name != "blocks.1.mlp.fc1.codes"})
        manifest.unlink()
        message, error = "codes", CheckpointError
    elif damage == "other sites":
        del described["sites"]["blocks.0.attn.qkv"]
        described |= with_digest(described)
        message, error = "blocks.0.attn.qkv", CheckpointError
    elif damage == "older format":
        described["format"] = 1
        message, error = "format 1", CheckpointError
    elif damage == "fewer activation bits":
        assert described["sites"]["blocks.0.mlp.fc1"]["activation"]["bits"] == 8
        described["sites"]["blocks.0.mlp.fc1"]["activation"]["bits"] = 4
        message, error = "edited by hand or damaged; export it again", CheckpointError
    elif damage == "another record":
        described["record"]["method"] = "q-dit"
        message, error = "edited by hand or damaged; export it again", CheckpointError
    elif damage == "no digest":
        del described["sha256"]
        message, error = "gives no sha256 of its content", CheckpointError
    elif damage == "another label count":
        config["num_embeds_ada_norm"] += 1
        message, error = "says num_embeds_ada_norm", CheckpointError
    elif damage == "half precision":
        arguments["torch_dtype"] = torch.float16
        message, error = "float32", Unsupported
    else:
        arguments["quantization_config"] = ours.QditConfig(config.pop("quantization_config")["checkpoint"])
        message, error = "pre-quantized", ValueError
    write_json(config_file, config)
    with pytest.raises(error, match=message) as raised:
        diffusers.DiTTransformer2DModel.from_pretrained(folder, **arguments)
    assert error is ValueError or "\n" not in str(raised.value)


def test_a_checkpoint_with_a_correction_is_not_exported(tmp_path: Path) -> None:
    from qdit.quant.correction import NoiseCorrection

    correction = NoiseCorrection(slope=torch.zeros(8), bias=torch.zeros(8, 1), residual=torch.zeros(8))
    save_checkpoint(tmp_path / "checkpoint", Quantized(random_dit(), correction), {"method": "ptqd"})
    for attempt in (lambda c: ours.export_checkpoint(c, tmp_path / "out"), ours.from_checkpoint):
        with pytest.raises(Unsupported, match="ptqd corrects"):
            attempt(tmp_path / "checkpoint")
    assert not (tmp_path / "out").exists()


def test_importing_enters_the_quantizer_and_nothing_else() -> None:
    from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    assert AUTO_QUANTIZER_MAPPING["qdit"] is ours.QditQuantizer
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["qdit"] is ours.QditConfig
    assert "checkpoint" in repr(ours.QditConfig({"format": 3}))


def test_export_is_deterministic(tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(tmp_path / "checkpoint", "q-dit")
    first = [sha256_file(file) for file in ours.export_checkpoint(checkpoint, tmp_path / "a")]
    assert first == [sha256_file(file) for file in ours.export_checkpoint(checkpoint, tmp_path / "b")]
