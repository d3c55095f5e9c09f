"""The profiles flux and wan: what they plan, and a tiny pipeline with random weights from its files to the table."""

import json
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

from qdit.cli import main as cli
from qdit.core.errors import ConfigError
from qdit.core.files import load_arrays, read_json, save_tensors, write_json
from qdit.metrics import extraction
from qdit.metrics.extractors import load_extractor
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.judge_clip import load as load_clip
from qdit.metrics.judged import judged_file
from qdit.metrics.samples import stream_samples
from qdit.metrics.statistics import moments
from qdit.report.data.checkpoint_log import read_log
from qdit.workflow import cost, importing
from qdit.workflow import profile as profiles
from qdit.workflow.commands import Commands
from qdit.workflow.cost_pipelines import transformer_shape
from qdit.workflow.explain import chain, explain_text
from qdit.workflow.fetch import NeededFile, fetch, files_of, is_there
from qdit.workflow.fetch_folders import fetch_folder
from qdit.workflow.method_index import planned_kinds
from qdit.workflow.profile import load_profile
from qdit.workflow.profile_pipelines import judge_files, judges_of
from tests.cli.test_latent_images import Colours
from tests.lazy import LazyModule
from tests.metrics import judges_golden
from tests.small_pipelines import flow_scheduler, tiny_pipeline_class
from tests.small_transformers import tiny_transformer

lpips_golden = LazyModule("tests.metrics.lpips_golden")
"""It imports torchvision."""

PROMPTS = ["the red boat", "and snow", "a boat's sinking", "22 boats", "the snow", "waterfall"]
FEW = {"bits": ["w4a4"], "methods": ["fp", "rtn", "svdquant"]}
OVERLAY = {
    "compute": {"device": "cpu", "dtype": "float32"},
    "sampling": {"images": 6, "chunk": 3, "chunks_per_shard": 1, "resamples": 20},
    "calibration": {"trajectory": 3, "uniform": 2},
    "methods": {"svdquant": {"options": {"rank": 2}}},
}
TINY = {
    "flux": ("flux-1024-g3.5-s50", "FluxPipeline", {"steps": 2, "call": {"arguments": {"height": 32, "width": 40}}}),
    "wan": (
        "wan-81x480x832-cfg5.0-s50",
        "WanPipeline",
        {"steps": 2, "call": {"arguments": {"height": 32, "width": 32}, "frames": 2}},
    ),
}
"""Profile → its setting, the class of its pipeline, and what is smaller in the test."""


@pytest.fixture
def qdit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command of the workflow in this process. The digits' classifier and Inception are a small extractor."""

    def load(name: str, weights: Path, *, device: str = "cpu") -> Any:
        return load_extractor(name, weights, device=device) if name == "dinov2" else Colours(digest_of(weights))

    for module in (extraction, importing):
        monkeypatch.setattr(module, "load_extractor", load)

    def call(command: str) -> None:
        monkeypatch.setattr(sys, "argv", ["qdit", *shlex.split(command)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0, (command, capsys.readouterr().err)

    return call


def digest_of(path: Path) -> str:
    from qdit.core.files import sha256_file

    return sha256_file(path)


def write_inputs(profile: dict[str, Any], class_name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files that a profile needs, tiny and random, at the paths that it names."""
    import diffusers
    from PIL import Image

    kind = tiny_pipeline_class(class_name)
    monkeypatch.setattr(diffusers, class_name, kind)
    model = next(iter(profile["models"].values()))
    kind(tiny_transformer(family), flow_scheduler(), None).save_pretrained(model["forms"]["natural"])
    for call in (setting["call"] for setting in profile["settings"].values()):
        for key in ("prompts", "calibration_prompts"):
            path = Path(call[key])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    for folder in map(Path, profile["references"].values()):
        folder.mkdir(parents=True)
        for number, image in enumerate(np.concatenate([judges_golden.random_images()] * 2)):
            Image.fromarray(np.roll(image, number, axis=2).transpose(1, 2, 0)).save(folder / f"{number:05d}.png")
    weights = {"clip": judges_golden.clip_weights(), "dino": judges_golden.dino_weights()}
    weights |= {"image-reward": judges_golden.reward_weights()}
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in judges_golden.MERGES), ""])
    vocabularies = {"clip": merges, "image-reward": "\n".join(judges_golden.PIECES) + "\n"}
    for judge in judges_of(profile):
        files = {name: Path(path) for name, path in judge_files(profile, judge).items()}
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        save_any(weights[judge], files["weights"])
        if "vocabulary" in files:
            files["vocabulary"].write_text(vocabularies[judge], encoding="utf-8")
    for name, tensors in zip(("backbone", "linear"), lpips_golden.random_weights("alex"), strict=True):
        save_any(tensors, Path(profile["perceptual"][name]))
    save_tensors(Path(profile["extractors"]["inception-adm"]), {})


def save_any(tensors: dict[str, Any], path: Path) -> None:
    """Weights in the format of a file's suffix."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def tiny_profile(name: str, tmp_path: Path, *, block: dict[str, Any] | None) -> dict[str, Any]:
    """The profile `name` with tiny numbers. `block` replaces bits and methods of its table."""
    setting, _, smaller = TINY[name]
    overlay = {**OVERLAY, "profile": f"tiny-{name}", "settings": {setting: smaller}}
    if block is not None:
        whole = load_profile(name)["tables"][name]["blocks"][0]
        overlay["tables"] = {name: {"blocks": [{**whole, **block}]}}
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return load_profile(name, path)


def make_rows(profile: dict[str, Any], commands: Commands, table: str, qdit) -> list[profiles.Run]:
    """All jobs of a table, as the rules run them, in an order that has every input ready."""
    runs = profiles.runs_of(profile, table)
    setting, model = runs[0].setting, commands.model(runs[0].setting)
    qdit(commands.reference(model["extractor"], model["reference"]))
    qdit(commands.judge_reference("dino", model["reference"]))
    for run in runs:
        entry = profile["methods"][run.label]
        data = commands.calibration_files(run, planned_kinds(entry["method"], entry.get("options", {})))
        for kind, path in data.items():
            if not path.exists():
                qdit(commands.calibrate(setting, run.form, kind))
        qdit(commands.quantize(run, data))
        for shard in profiles.run_shards(profile, run):
            qdit(commands.sample(run, shard))
        qdit(commands.perceptual(run))
        for judge in judges_of(profile):
            qdit(commands.judge(run, judge))
        qdit(commands.evaluate(run))
    write_json(commands.results / "profile.json", profile)
    qdit(commands.table(table))
    return runs


def road(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qdit, *, block: dict[str, Any] | None) -> None:
    """A tiny pipeline from files to the table, and what the table says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QDIT_DEVICE", "cpu")
    profile = tiny_profile(name, tmp_path, block=block)
    write_inputs(profile, TINY[name][1], name, monkeypatch)
    commands = Commands(profile, Path("results") / f"tiny-{name}")
    runs = make_rows(profile, commands, name, qdit)
    records = {run: read_json(commands.folder(run) / "metrics.json") for run in runs}
    for run, record in records.items():
        assert record["status"] == "ok", (run, record)
        metrics, full = record["metrics"], run.label == "fp"
        assert (metrics["fd_fp"] == metrics["fd_dino_fp"] == metrics["lpips_fp"] == 0) == full
        assert (metrics["psnr_fp"] is None) == full and metrics["class_accuracy"] is None
        for metric in ("fid", "fd_dino", "clip_score", "image_reward"):
            low, high = record["intervals"][metric]
            assert low <= metrics[metric] <= high, metric
        assert record["protocol"]["sampler"] == "pipeline" and record["size"]["paper_mb"] > 0
    full, other = runs[0], runs[-1]
    assert records[other]["size"]["paper_mb"] < records[full]["size"]["paper_mb"]
    check_judges(commands, records, full, other)
    check_chain(profile, name, len(runs), commands)
    html = (commands.results / "tables" / f"{name}.html").read_text(encoding="utf-8")
    for text in ("CLIP score", "ImageReward", "FD-DINOv2", "LPIPS-FP", "PSNR-FP", "RTN", "SVDQuant"):
        assert text in html, text


def check_judges(commands: Commands, records: dict[Any, Any], full: profiles.Run, other: profiles.Run) -> None:
    """CLIP score and the distance of DINOv2 features, computed again from the images of a run."""
    record, count = records[other], sum(1 for _ in PROMPTS)
    count = record["protocol"]["images"]
    chunks = list(stream_samples(commands.samples(other), images=count))
    score = load_clip(commands.judge_weights("clip"), "cpu")
    scores = np.concatenate([score(chunk.images, chunk.prompts) for chunk in chunks])
    assert record["metrics"]["clip_score"] == pytest.approx(scores.mean(), rel=1e-6)
    features = [load_arrays(judged_file(commands.samples(run), "dino"))["values"] for run in (other, full)]
    expected = frechet_distance(*map(moments, features))
    assert record["metrics"]["fd_dino_fp"] == pytest.approx(expected, rel=1e-6)
    assert record["protocol"]["judges"].keys() == {"clip", "image-reward", "dino"}


def check_chain(profile: dict[str, Any], table: str, row: int, commands: Commands) -> None:
    """The last row's chain holds, with LPIPS and judges in it; another file of a network breaks its link only."""
    text, is_whole = explain_text(profile, table, str(row), commands.results)
    assert is_whole, text
    run = profiles.runs_of(profile, table)[row - 1]
    links = {link.what: link for link in chain(profile, table, run, commands.results)}
    judges = {f"judge {name}" for name in ("clip", "image-reward", "dino", "dino of full precision")}
    assert read_log(commands.folder(run)).problem is None
    assert {"LPIPS", "weights of LPIPS (linear)", "reference of the judge dino"} | judges <= links.keys()
    commands.judge_weights("clip")["vocabulary"].write_text("another", encoding="utf-8")
    commands.lpips_file(run).unlink()
    links = {link.what: link for link in chain(profile, table, run, commands.results)}
    assert {what for what, link in links.items() if link.broken} == {"LPIPS", "vocabulary of the judge clip"}


def test_a_tiny_flux_goes_from_files_to_the_table(tmp_path: Path, monkeypatch, qdit) -> None:
    road("flux", tmp_path, monkeypatch, qdit, block=FEW)


@pytest.mark.slow
def test_all_rows_of_a_tiny_flux(tmp_path: Path, monkeypatch, qdit) -> None:
    road("flux", tmp_path, monkeypatch, qdit, block=None)


@pytest.mark.slow
def test_a_tiny_wan_goes_from_files_to_the_table_by_frames(tmp_path: Path, monkeypatch, qdit) -> None:
    road("wan", tmp_path, monkeypatch, qdit, block=FEW)


# Plans

SOURCE = {"hub": "a/b", "megabytes": 1, "licence": "x"}


@pytest.fixture(scope="module")
def flux() -> dict[str, Any]:
    return load_profile("flux")


def test_the_plan_knows_the_transformers_by_their_shapes(flux) -> None:
    shape = transformer_shape(flux, "flux-1024-g3.5-s50")
    # FLUX.1-dev: 19 double and 38 single blocks of width 3072. In scope common the attention and MLP linears.
    width, hidden = 3072, 4 * 3072
    double, single = 2 * (4 * width**2 + 2 * width * hidden), width * (3 * width + hidden) + (width + hidden) * width
    assert shape.quantized == 19 * double + 38 * single
    assert shape.parameters == 11_901_408_320 and shape.width == width
    tokens, image, text = 4608, 4096, 512
    products = 19 * (image + text) * double + 38 * tokens * 2 * single
    attention = (19 + 38) * 4 * tokens**2 * width
    assert shape.flops == pytest.approx(products + attention, rel=0.01)
    assert shape.checkpoint_bytes(4) < shape.checkpoint_bytes(16) / 2


def test_a_pipeline_costs_its_evaluations_and_frames_share_a_clip() -> None:
    wan = load_profile("wan")
    setting, form = "wan-81x480x832-cfg5.0-s50", "natural"
    assert profiles.sampled(wan, setting, form) == wan["sampling"] | {"images": 4000, "chunk": 4}
    network = cost.network_of(wan, setting)
    whole = transformer_shape(wan, setting).flops
    run = profiles.runs_of(wan, "wan")[0]
    jobs = list(cost.run_jobs(wan, run, cost.Speed(1.0, "a test")))
    sampled = sum(job.seconds for job in jobs if job.rule == "sample")
    assert sampled == pytest.approx(1000 * 50 * 2 * whole) and network.pixels == 3 * 480 * 832
    quantized = profiles.runs_of(wan, "wan")[3]
    assert quantized.label == "svdquant"
    calibrated = [job for job in cost.run_jobs(wan, quantized, cost.Speed(1.0, "a test")) if job.rule == "calibrate"]
    assert sum(job.seconds for job in calibrated) == pytest.approx(16 * 50 * 2 * whole)


def test_commands_of_a_pipeline(flux, tmp_path: Path) -> None:
    commands, run = Commands(flux, tmp_path), profiles.runs_of(flux, "flux")[3]
    words = shlex.split(commands.sample(run, 2))
    assert words[:2] == ["pipeline", "sample"] and words[words.index("--pipeline") + 1] == "weights/flux/FLUX.1-dev"
    values = dict(pairwise(words))
    assert (values["--images"], values["--chunk"], values["--shard"], values["--dtype"]) == (
        "5000",
        "4",
        "2",
        "bfloat16",
    )
    assert json.loads(values["--arguments"]) == {"height": 1024, "width": 1024, "max_sequence_length": 512}
    words = shlex.split(commands.calibrate(run.setting, run.form, "trajectory"))
    values = dict(pairwise(words))
    assert values["--samples"] == "32" and json.loads(values["--arguments"])["guidance_scale"] == 3.5
    assert "--cfg-scale" not in words and values["--prompts"] == "data/flux/calibration-prompts.txt"
    assert "--cfg-scale" not in commands.quantize(run, {"trajectory": "x"})
    evaluated = shlex.split(commands.evaluate(run))
    assert f"clip={commands.judged_file(run, 'clip')}" in evaluated and "--judge-reference" in evaluated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s: s.update(sampler="ddim"), "is a pipeline, so its settings must have the sampler 'pipeline'"),
        (lambda p, s: s.pop("call"), "missing call"),
        (lambda p, s: s["call"]["arguments"].pop("width"), "missing width, a whole number of pixels"),
        (lambda p, s: s["call"]["arguments"].update(guidance_scale=1), "guidance_scale is decided by other keys"),
        (lambda p, s: s["call"].update(frames=3), "found 3, allowed are 0 and 1, 2, 4"),
        (lambda p, s: s["call"].update(prompts="/etc/passwd"), "expected a path below"),
        (lambda p, s: p["judges"]["clip"].update(weights="../x"), "expected a path below"),
        (lambda p, s: p["judges"].update(clap={}), "unknown key 'clap'"),
        (lambda p, s: p["models"]["flux-1-dev"].update(vae="weights/vae.safetensors"), "found pipeline and vae"),
        (lambda p, s: p["files"].update({"weights/x.pth": SOURCE}), "expected either url, or hub and file"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_in_a_line(flux, change, message: str) -> None:
    profile = json.loads(json.dumps(flux))
    change(profile, profile["settings"]["flux-1024-g3.5-s50"])
    with pytest.raises(ConfigError, match=message) as raised:
        profiles.validate(profile)
    assert "\n" not in str(raised.value)


def test_a_class_that_does_not_fit_is_refused(flux) -> None:
    profile = json.loads(json.dumps(flux))
    profile["settings"]["flux-1024-g3.5-s50"]["call"]["inputs"]["hidden_states"] = [4096, 16]
    with pytest.raises(ConfigError, match=r"call\.inputs: FluxTransformer2DModel does not accept these shapes"):
        transformer_shape(profile, "flux-1024-g3.5-s50")
    profile["models"]["flux-1-dev"]["pipeline"]["transformer"] = "FluxTransformer3DModel"
    with pytest.raises(ConfigError, match="has no class 'FluxTransformer3DModel'"):
        transformer_shape(profile, "flux-1024-g3.5-s50")


def test_own_files_and_folders_are_needed_and_a_pipeline_is_fetched_whole(flux, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    needed = {str(file.path): file for file in files_of(flux)}
    assert {"data/flux/prompts.txt", "data/flux/real-images", "weights/flux/FLUX.1-dev"} <= needed.keys()
    assert "weights/judges/ImageReward.pt" in needed and "not whole" not in needed["data/flux/prompts.txt"].about
    folder: NeededFile = needed["weights/flux/FLUX.1-dev"]
    with pytest.raises(ConfigError, match="pass --allow-unverified weights/flux/FLUX.1-dev"):
        fetch(folder)

    def snapshot(repo_id: str, local_dir: Path, allow_patterns: list[str]) -> str:
        assert repo_id == "black-forest-labs/FLUX.1-dev" and "*.bin" not in allow_patterns
        assert "*/*.safetensors" in allow_patterns
        Path(local_dir).mkdir(parents=True)
        (Path(local_dir) / "model_index.json").write_text("{}")
        return str(local_dir)

    assert fetch_folder(folder.path, folder.entry, allow_unverified=True, snapshot=snapshot)
    assert is_there(folder.path) and not fetch(folder, allow_unverified=True)
    Path("data/flux/real-images").mkdir(parents=True)
    assert not is_there(Path("data/flux/real-images"))
    Path("data/flux/real-images/0.png").write_bytes(b"x")
    assert is_there(Path("data/flux/real-images"))
