"""Calibration sets from a pipeline: the recorded calls are those of the pipeline, and they are stored and loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import CheckpointError, ConfigError, DataError, Unsupported
from qdit.core.files import load_tensors, save_tensors, sha256_file
from qdit.methods.any_model import quantize_transformer
from qdit.models.generic.network import DiffusersNetwork
from qdit.quant.batches import run
from qdit.quant.folder import read_config
from qdit.sampling.keyword_file import load_keywords, save_keywords
from qdit.sampling.pipeline_folder import load_pipeline
from qdit.sampling.pipelines import Released, record_pipeline
from tests.small_pipelines import TextEncoder, flow_scheduler, tiny_pipeline_class
from tests.small_transformers import tiny_transformer

PROMPTS = ["a bird", "two red boats", "snow"]
GUIDED = {"true_cfg_scale": 4.0}


@pytest.fixture
def pipeline():
    return tiny_pipeline_class()(
        transformer=tiny_transformer("flux"),
        scheduler=flow_scheduler(),
        text_encoder=TextEncoder().requires_grad_(False),
    )


@pytest.fixture
def calls(pipeline):
    """Keyword arguments of all calls of the transformer, as a hook of the test sees them."""
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append({name: kwargs[name] for name in kwargs}), with_kwargs=True
    )
    return seen


def test_every_step_of_every_prompt_is_recorded(pipeline, calls) -> None:
    data = record_pipeline(pipeline, PROMPTS, steps=4, kind="per-step", seed=7)
    full = calls[-3 * 4 :]  # before these: two calls that are stopped, to learn which arguments have rows
    assert len(calls) == 2 + 3 * 4 and len(data) == 12
    assert data.protocol.pipeline == "FluxPipeline" and data.protocol.steps == 4 and data.protocol.cfg_scale == 1
    assert data.keywords.shared.keys() == {"img_ids", "txt_ids"}
    order = [prompt * 4 + step for step in range(4) for prompt in range(3)]
    for row, number in enumerate(order):
        for name, value in data.keywords.samples.items():
            assert torch.equal(value[row], full[number][name][0]), (row, name)
    assert data.timestep[:3].tolist() == [1.0] * 3 and (data.timestep[:-1] >= data.timestep[1:]).all()
    assert not data.unconditional.any()
    starts = data.x[:3]
    assert not torch.equal(starts[0], starts[1])  # each prompt has noise of its own
    assert torch.equal(record_pipeline(pipeline, PROMPTS, steps=4, kind="per-step", seed=7).x, data.x)
    assert len(data.at_step(3)) == 3 and float(data.schedule[3]) == 1.0


@pytest.mark.parametrize(("kind", "count"), [("trajectory", 3), ("uniform", 6), ("per-step", 24), ("regression", 12)])
def test_the_unconditional_branch_is_marked(pipeline, kind, count) -> None:
    data = record_pipeline(pipeline, PROMPTS, steps=4, kind=kind, arguments=GUIDED)
    assert len(data) == count and data.protocol.cfg_scale == 4.0 and data.protocol.guided
    empty = TextEncoder().requires_grad_(False)
    texts = data.keywords.samples["encoder_hidden_states"]
    assert [torch.equal(text, empty([""])[0][0]) for text in texts] == data.unconditional.tolist()
    if kind in ("uniform", "per-step"):
        assert data.unconditional.tolist() == [False, True] * (count // 2)
        assert torch.equal(data.x[::2], data.x[1::2]) and torch.equal(data.timestep[::2], data.timestep[1::2])
    else:
        assert not data.unconditional.any()


def test_text_encoders_run_once_and_are_freed(pipeline) -> None:
    encoder = pipeline.text_encoder
    kept = record_pipeline(pipeline, PROMPTS, steps=2, kind="per-step")
    assert encoder.calls == len(PROMPTS) + 1  # and once for the pair of prompts that shows which arguments have rows
    assert pipeline.text_encoder is encoder and "encode_prompt" not in vars(pipeline)
    released = record_pipeline(pipeline, PROMPTS, steps=2, kind="per-step", release=True)
    assert isinstance(pipeline.text_encoder, Released) and encoder.calls == 2 * (len(PROMPTS) + 1)
    assert torch.equal(released.x, kept.x)


def test_a_set_is_stored_and_calibrates_a_method(pipeline, tmp_path: Path) -> None:
    data = record_pipeline(pipeline, PROMPTS, steps=4, weights_sha256="1" * 64)
    save_keywords(tmp_path / "set.safetensors", data, {"weights_sha256": "1" * 64})
    loaded = load_keywords(tmp_path / "set.safetensors")
    assert (loaded.kind, loaded.protocol, loaded.weights_sha256) == (data.kind, data.protocol, data.weights_sha256)
    assert torch.equal(loaded.unconditional, data.unconditional)
    network = DiffusersNetwork(pipeline.transformer)
    for first, second in zip(loaded.batches(2), data.batches(2), strict=True):
        with torch.no_grad():
            assert torch.equal(run(network, first), run(network, second))
    samples, shared = loaded.keywords.samples, loaded.keywords.shared
    result = quantize_transformer(
        pipeline.transformer, "q-dit", samples=samples, shared=shared, options={"group_size": 8}
    )
    pipeline.transformer = result.model.transformer
    assert pipeline(PROMPTS[0], num_inference_steps=2).images.isfinite().all()


def test_nested_arguments_are_stored(pipeline, tmp_path: Path) -> None:
    data = record_pipeline(pipeline, PROMPTS, steps=2)
    data.keywords.samples["sizes"] = [[(1, 4, 4)], [(1, 4, 4)], [(1, 2, 8)]]
    data.keywords.samples["more"] = {"ratio": torch.ones(3, 1)}
    data.keywords.shared["rotary"] = (torch.ones(2, 3), torch.zeros(2, 3))
    save_keywords(tmp_path / "set.safetensors", data)
    loaded = load_keywords(tmp_path / "set.safetensors").keywords
    assert loaded.samples["sizes"] == data.keywords.samples["sizes"] and loaded.samples["more"]["ratio"].shape == (3, 1)
    assert isinstance(loaded.shared["rotary"], tuple)
    data.keywords.shared["rotary"] = object()
    with pytest.raises(Unsupported, match=r"argument shared\.rotary: holds a object"):
        save_keywords(tmp_path / "other.safetensors", data)


def test_damaged_files_are_refused_in_a_line(pipeline, tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    save_keywords(path, record_pipeline(pipeline, PROMPTS, steps=2))
    tensors, metadata = load_tensors(path)
    shorter = tensors | {"samples.hidden_states": tensors["samples.hidden_states"][:2]}
    without = {name: tensor for name, tensor in tensors.items() if name != "shared.img_ids"}
    broken = tensors | {"samples.hidden_states": tensors["samples.hidden_states"] * float("nan")}
    cases = [
        (shorter, metadata, "rows"),
        (without, metadata, "img_ids"),
        (broken, metadata, "hidden_states"),
        (tensors, {**metadata, "protocol": {}}, "disagree"),
        (tensors, {**metadata, "samples": {"run": "code"}}, "unknown kind of argument 'run'"),
        (tensors, {"kind": "trajectory"}, "not a calibration set"),
    ]
    for content, header, message in cases:
        save_tensors(path, content, header)
        with pytest.raises(DataError, match=message) as raised:
            load_keywords(path)
        assert "\n" not in str(raised.value)


def test_what_cannot_be_recorded_is_said(pipeline) -> None:
    with pytest.raises(ConfigError, match="the list is empty"):
        record_pipeline(pipeline, [], steps=2)
    with pytest.raises(ConfigError, match="no argument 'hight'"):
        record_pipeline(pipeline, PROMPTS, steps=2, arguments={"hight": 8})
    with pytest.raises(Unsupported, match="ndtc-released"):
        record_pipeline(pipeline, PROMPTS, steps=2, kind="ndtc-released")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A pipeline folder whose class diffusers has. The real FluxPipeline needs transformers, which is not installed."""
    import diffusers

    pipeline_class = tiny_pipeline_class()
    monkeypatch.setattr(diffusers, "FluxPipeline", pipeline_class)
    pipeline_class(tiny_transformer("flux"), flow_scheduler(), None).save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return tmp_path / "pipeline"


def command(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def test_from_a_pipeline_folder_to_a_quantized_one(folder: Path) -> None:
    data, out = folder.parent / "trajectory.safetensors", folder.parent / "quantized"
    prompts = folder.parent / "prompts.txt"
    result = command("calibrate", folder, data, "--prompts", prompts, "--steps", 3, "--arguments", json.dumps(GUIDED))
    assert result.exit_code == 0 and "3 prompts" in result.output, result.output
    assert load_keywords(data).protocol.cfg_scale == 4.0
    options = json.dumps({"group_size": 8})
    given = ["--calibration", f"trajectory={data}", "--options", options]
    result = command("quantize", folder, out, "--method", "q-dit", *given)
    assert result.exit_code == 0 and "q-dit W4A8" in result.output, result.output
    config = read_config(out)
    assert config["record"]["calibration_sha256"] == {"trajectory": sha256_file(data)}
    shutil.copytree(out, folder / "transformer", dirs_exist_ok=True)
    result = command("quantize", folder, out, "--method", "q-dit", *given)
    assert isinstance(result.exception, Unsupported) and "is quantized already" in str(result.exception)


def test_the_command_says_what_it_needs(folder: Path) -> None:
    out, prompts = folder.parent / "out.safetensors", folder.parent / "prompts.txt"
    cases = [
        ((), "give --prompts"),
        (("--prompts", prompts, "--height", 64), "put all else into --arguments"),
        (("--prompts", folder.parent / "missing.txt"), "cannot be read as text"),
    ]
    for words, message in cases:
        result = command("calibrate", folder, out, *words)
        assert isinstance(result.exception, ConfigError) and message in str(result.exception)
    result = command("calibrate", folder / "transformer", out, "--prompts", prompts)
    assert isinstance(result.exception, ConfigError) and "is not a pipeline folder" in str(result.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": ["code.py", "Mine"]}, "pipeline class"),
        ({"_class_name": "NoPipeline"}, "pipeline class 'NoPipeline'"),
        ({"scheduler": ["os", "system"]}, "scheduler names"),
    ],
)
def test_a_folder_that_names_code_is_refused(folder: Path, change, message) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder, "float32")
