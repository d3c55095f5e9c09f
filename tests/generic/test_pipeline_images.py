"""Images of a whole pipeline whose transformer is a checkpoint's: noise, prompts, frames, precision, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import CheckpointError, ConfigError, Diverged, QditError, Unsupported
from qdit.core.seeds import Purpose, torch_generator
from qdit.metrics.bootstrap import multiplicities
from qdit.metrics.samples import listed_shards, stream_samples
from qdit.quant.checkpoint import read_checkpoint
from qdit.quant.folder import read_config
from qdit.sampling import pipeline_images
from qdit.sampling.integer import PIPELINE_INTEGER
from qdit.sampling.pipeline_images import Calls, PipelineSampleJob, sample_pipeline, to_pixels
from qdit.sampling.pipeline_protocol import PipelineImages
from tests.small_pipelines import flow_scheduler, tiny_pipeline_class
from tests.small_transformers import tiny_transformer

PROMPTS = ["a bird", "two red boats", "snow"]
SIZE = {"height": 32, "width": 40}


def command(*words: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(result.exception, QditError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a FLUX pipeline, one of a Wan pipeline, and checkpoints of both transformers."""
    import diffusers

    root = tmp_path_factory.mktemp("pipelines")
    patch = pytest.MonkeyPatch()
    for name, family in (("FluxPipeline", "flux"), ("WanPipeline", "wan")):
        kind = tiny_pipeline_class(name)
        patch.setattr(diffusers, name, kind)
        kind(tiny_transformer(family), flow_scheduler(), None).save_pretrained(root / family)
        options = json.dumps({"activation": "dynamic", "group_size": 8})
        command("quantize", root / family, root / f"{family}-rtn", "--method", "rtn", "--options", options)
        command("quantize", root / family, root / f"{family}-fp", "--method", "fp", "--bits", "w16a16")
    (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    yield root
    patch.undo()


def job(folder: Path, out: Path, *, family: str = "flux", checkpoint: str = "rtn", **values) -> PipelineSampleJob:
    facts = {"steps": 3, "cfg_scale": 2.0, "seed": 7, "arguments": SIZE} | values.pop("protocol", {})
    sizes = {"images": 7, "chunk": 3} | values
    return PipelineSampleJob(
        folder / family, folder / f"{family}-{checkpoint}", out, PROMPTS, PipelineImages(**facts), **sizes
    )


def images_of(folder: Path, count: int) -> np.ndarray:
    return np.concatenate([chunk.images for chunk in stream_samples(folder, images=count)])


def test_the_images_are_those_of_the_pipeline_with_the_quantized_transformer(folder: Path, tmp_path: Path) -> None:
    sample_pipeline(job(folder, tmp_path / "run"))
    network, _, _ = read_checkpoint(folder / "flux-rtn")
    pipeline = tiny_pipeline_class()(network.transformer, flow_scheduler(), None)
    chunks = list(stream_samples(tmp_path / "run", images=7))
    assert [len(chunk.images) for chunk in chunks] == [3, 3, 1]
    assert [prompt for chunk in chunks for prompt in chunk.prompts] == [*PROMPTS, *PROMPTS, PROMPTS[0]]
    draws = [torch_generator(7, Purpose.INITIAL_NOISE, index) for index in (3, 4, 5)]
    made = pipeline(PROMPTS, num_inference_steps=3, guidance_scale=2.0, generator=draws, output_type="np", **SIZE)
    expected = (made.images * 255).round().astype(np.uint8).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(chunks[1].images, expected)
    assert expected.std() > 5 and chunks[0].images.shape == (3, 3, 32, 40)


def test_methods_see_the_same_noise_and_shards_change_no_bit(folder: Path, tmp_path: Path) -> None:
    whole = images_of(sample_pipeline(job(folder, tmp_path / "whole")).parent, 7)
    for shard in range(2):
        sample_pipeline(job(folder, tmp_path / "shards", shard=shard, chunks_per_shard=2))
    np.testing.assert_array_equal(images_of(tmp_path / "shards", 7), whole)
    full = images_of(sample_pipeline(job(folder, tmp_path / "full", checkpoint="fp")).parent, 7)
    error = np.abs(full.astype(float) - whole).mean(axis=(1, 2, 3))
    between = np.abs(full[:3].astype(float) - full[3:6]).mean()
    assert (error > 0).all() and error.max() < between / 2  # the same noise: close to full precision's, pair by pair
    key = listed_shards(tmp_path / "whole")[0].key
    sample_pipeline(job(folder, tmp_path / "whole", protocol={"seed": 8}))
    assert listed_shards(tmp_path / "whole")[0].key != key
    assert not np.array_equal(images_of(tmp_path / "whole", 7), whole)


def test_of_clips_frames_are_kept_and_clips_are_resampled(folder: Path, tmp_path: Path) -> None:
    sampled = job(folder, tmp_path / "run", family="wan", images=6, chunk=4, protocol={"frames": 2})
    sample_pipeline(sampled)
    chunks = list(stream_samples(tmp_path / "run", images=6))
    assert [prompt for chunk in chunks for prompt in chunk.prompts] == [name for name in PROMPTS for _ in range(2)]
    single = job(folder, tmp_path / "single", family="wan", images=3, chunk=2, protocol={"frames": 1})
    sample_pipeline(single)
    np.testing.assert_array_equal(images_of(tmp_path / "single", 3), images_of(tmp_path / "run", 6)[1::2])
    counts = multiplicities(6, 50, frames=2)
    assert (counts[:, ::2] == counts[:, 1::2]).all() and (counts.sum(axis=1) == 6).all()
    np.testing.assert_array_equal(counts[:, ::2], multiplicities(3, 50))
    with pytest.raises(ConfigError, match="both must be multiples of 2"):
        sample_pipeline(job(folder, tmp_path / "odd", family="wan", images=7, chunk=2, protocol={"frames": 2}))
    with pytest.raises(ConfigError, match="the clips have 2 frames only"):
        sample_pipeline(job(folder, tmp_path / "long", family="wan", images=4, chunk=4, protocol={"frames": 4}))


def test_pixels_are_rounded_as_diffusers_rounds_them() -> None:
    values = np.linspace(-0.1, 1.1, 2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
    expected = (values.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(to_pixels(values, 0), expected)
    clips = np.stack([values] * 9, axis=1) * np.arange(9, dtype=np.float32).reshape(9, 1, 1, 1) / 8
    np.testing.assert_array_equal(to_pixels(clips, 4)[:4], to_pixels(clips[0, [0, 3, 5, 8]], 0))
    np.testing.assert_array_equal(to_pixels(clips, 1)[0], to_pixels(clips[:1, 4], 0)[0])
    values[0, 0, 0, 0] = np.nan
    with pytest.raises(Diverged, match="diverges at these bits"):
        to_pixels(values, 0)
    with pytest.raises(ConfigError, match="state the frames to keep"):
        to_pixels(clips, 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_another_run_and_close(folder: Path, tmp_path: Path, dtype: str) -> None:
    exact = images_of(sample_pipeline(job(folder, tmp_path / "exact", images=3)).parent, 3)
    half = images_of(sample_pipeline(job(folder, tmp_path / dtype, images=3, protocol={"dtype": dtype})).parent, 3)
    error = np.abs(exact.astype(float) - half).mean()
    assert 0 < error < 4
    keys = {listed_shards(tmp_path / name)[0].key for name in ("exact", dtype)}
    assert len(keys) == 2


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_in_integer_mode_it_is_another_run_and_close(folder: Path, tmp_path: Path, family: str) -> None:
    sizes = {"family": family, "images": 4, "chunk": 2, "protocol": {"frames": 2 if family == "wan" else 0}}
    exact = images_of(sample_pipeline(job(folder, tmp_path / "exact", **sizes)).parent, 4)
    listing = sample_pipeline(job(folder, tmp_path / "whole", mode=PIPELINE_INTEGER, **sizes))
    assert json.loads(listing.read_text())["mode"] == "integer"
    assert listed_shards(tmp_path / "whole")[0].key != listed_shards(tmp_path / "exact")[0].key
    error = np.abs(exact.astype(float) - images_of(tmp_path / "whole", 4))
    assert error.mean() < 2, "sums of integer products are rounded in another order"
    with pytest.raises(Unsupported, match="no layer has a quantized weight and a quantized input"):
        sample_pipeline(job(folder, tmp_path / "fp", mode=PIPELINE_INTEGER, checkpoint="fp", **sizes))


def test_what_cannot_be_sampled_is_said_in_a_line(folder: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="has no argument 'hight'"):
        sample_pipeline(job(folder, tmp_path / "run", protocol={"arguments": {"hight": 8}}))
    with pytest.raises(ConfigError, match="frames 3: allowed are 0"):
        PipelineImages(frames=3)
    monkeypatch.setattr(tiny_pipeline_class("FluxPipeline"), "transformer_2", object(), raising=False)
    with pytest.raises(Unsupported, match="has a second transformer"):
        sample_pipeline(job(folder, tmp_path / "two"))
    with pytest.raises(ConfigError, match="guidance_scale is decided by another flag"):
        pipeline_images.arguments_of({"guidance_scale": 3})
    command("quantize", Path(__file__).parents[2] / "weights/dit-digits-natural.safetensors", tmp_path / "dit",
            "--method", "fp", "--bits", "w16a16")  # fmt: skip
    wrong = PipelineSampleJob(folder / "flux", tmp_path / "dit", tmp_path / "x", PROMPTS, PipelineImages(), 4, 4)
    with pytest.raises(CheckpointError, match="no transformer of a pipeline"):
        sample_pipeline(wrong)


def test_the_command_says_what_it_made(folder: Path, tmp_path: Path) -> None:
    words = ["--pipeline", folder / "flux", "--prompts", folder / "prompts.txt", "--images", 4, "--chunk", 2]
    words += ["--steps", 2, "--arguments", json.dumps(SIZE)]
    result = command("pipeline", "sample", folder / "flux-rtn", tmp_path / "run", *words)
    assert "4 of 4 images, 2 steps" in result.output
    with pytest.raises(ConfigError, match="output_type is decided by another flag"):
        command(
            "pipeline", "sample", folder / "flux-rtn", tmp_path / "run", *words, "--arguments", '{"output_type": 1}'
        )
    with pytest.raises(ConfigError, match="--mode 'int8': allowed are simulate and integer"):
        command("pipeline", "sample", folder / "flux-rtn", tmp_path / "run", *words, "--mode", "int8")
    whole = command("pipeline", "sample", folder / "flux-rtn", tmp_path / "whole", *words, "--mode", "integer")
    assert "4 of 4 images" in whole.output and listed_shards(tmp_path / "whole")[0].mode == "integer"
    before = (tmp_path / "run" / "00000.npz").stat().st_mtime_ns
    command("pipeline", "sample", folder / "flux-rtn", tmp_path / "run", *words)
    assert (tmp_path / "run" / "00000.npz").stat().st_mtime_ns == before


def test_sizes_are_searched_for_the_transformer_of_a_pipeline(folder: Path, tmp_path: Path) -> None:
    """The commands of docs/search.md: calibrate, search, quantize with the allocation, and images in integers."""
    calls = f"trajectory={tmp_path / 'calls.safetensors'}"
    prompts, size = ("--prompts", folder / "prompts.txt"), ("--arguments", json.dumps(SIZE))
    command("calibrate", folder / "flux", tmp_path / "calls.safetensors", *prompts, "--steps", 3, *size)
    sizes = ("--sizes", "16,8,4", "--reference-size", 8, "--chunk", 3)
    for kind, words in (("ilp", "0 calls measured"), ("racing", "of the budget")):
        options = '{"population": 4, "parents": 2, "crossover": 2, "mutation": 2, "iterations": 1}'
        more = ("--options", options) if kind == "racing" else ()
        searched = command(
            "search", folder / "flux", tmp_path / f"{kind}.json", "--kind", kind, "--calibration", calls, *sizes, *more
        )
        assert words in searched.output
    command(
        *("quantize", folder / "flux", tmp_path / "made", "--method", "q-dit", "--calibration", calls),
        *("--allocation", tmp_path / "ilp.json"),
    )
    sites = read_config(tmp_path / "made")["sites"]
    groups = json.loads((tmp_path / "ilp.json").read_text())["groups"]
    assert {name: site["activation"]["group_size"] for name, site in sites.items()} == groups
    words = ("--pipeline", folder / "flux", "--images", 2, "--chunk", 2, "--steps", 2, "--mode", "integer")
    command("pipeline", "sample", tmp_path / "made", tmp_path / "run", *prompts, *words, *size)
    assert images_of(tmp_path / "run", 2).std() > 5


def test_a_call_of_the_pipeline_has_a_generator_for_each_image() -> None:
    seen = {}

    class Fake:
        def __call__(self, prompt, num_inference_steps, guidance_scale, generator, output_type):
            seen.update(prompt=prompt, generator=generator)
            return type("Output", (), {"images": np.zeros((len(prompt), 2, 2, 3))})

    columns = Calls(Fake(), PROMPTS, PipelineImages(seed=3))(range(4, 8), 2)
    assert seen["prompt"] == [PROMPTS[1], PROMPTS[2], PROMPTS[0], PROMPTS[1]] and len(columns["images"]) == 2
    assert columns["labels"].tolist() == [-1, -1] and columns["prompts"].tolist() == PROMPTS[1:]
    first = torch_generator(3, Purpose.INITIAL_NOISE, 4)
    assert torch.equal(torch.randn(4, generator=seen["generator"][0]), torch.randn(4, generator=first))
