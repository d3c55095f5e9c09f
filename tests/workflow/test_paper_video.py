"""The video model of the full reproduction: its commands, how many clips there are, and what a profile may not say."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.core.metrics_record import MetricsRecord
from qdit.core.run import Run
from qdit.models import text_encoder
from qdit.sampling.flow_protocol import FlowProtocol, timestep_shift
from qdit.workflow import profile as profiles
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.doctor import text_packages, vbench_environment
from qdit.workflow.explain_clips import scored_with
from qdit.workflow.fetch import needed_files
from qdit.workflow.profile import clips_of, load_profile, validate

Profile = dict[str, Any]
MODEL, SETTING = "stdit3-opensora", "opensora-51x240x426-cfg7.0-s30"
RUN = Run(SETTING, "natural", "q-dit", "w4a8", "common")


@pytest.fixture(scope="module")
def loaded() -> Profile:
    return load_profile("paper")


@pytest.fixture
def paper(loaded: Profile) -> Profile:
    return copy.deepcopy(loaded)


def test_the_setting_is_open_soras_default(paper: Profile) -> None:
    setting = paper["settings"][SETTING]
    assert FlowProtocol(**setting["clip"], steps=setting["steps"], cfg_scale=setting["cfg_scale"]) == FlowProtocol()
    assert "shift" not in setting and timestep_shift(51, 240, 426) == pytest.approx(2.4187, abs=1e-4)
    assert profiles.family_at(paper, SETTING).samples == "clips"


def test_commands_have_texts_vae_size_and_precision(paper: Profile) -> None:
    commands = Commands(paper, Path("results/paper"))
    text = "--text-embeddings results/paper/text/stdit3-opensora.safetensors"
    clip = "--steps 30 --cfg-scale 7.0 --seed 0 --frames 51 --height 240 --width 426 --fps 24"
    vae = "--vae weights/paper/OpenSora-VAE-v1.2/model.safetensors"
    assert f"{text} {clip} {vae} --dtype bfloat16 --record-failure" in commands.sample(RUN, 3)
    assert "--suite weights/paper/VBench_full_info.json --samples 5 --chunk 5 --shard 3" in commands.sample(RUN, 3)
    calibrate = commands.calibrate(RUN.setting, RUN.form, "trajectory")
    assert calibrate.startswith("calibrate results/paper/weights/stdit3-opensora-natural.safetensors")
    assert calibrate.endswith(f"--samples 64 {text} {clip} --dtype bfloat16")
    assert commands.embed("stdit3-opensora") == (
        "video embed weights/paper/VBench_full_info.json results/paper/text/stdit3-opensora.safetensors"
        " --encoder weights/paper/t5-v1_1-xxl"
    )
    assert "weights/paper/OpenSora-STDiT-v3/model.safetensors" in commands.import_weights("stdit3-opensora", "natural")
    assert "--family stdit3 --shape '{}'" in commands.import_weights("stdit3-opensora", "natural")
    image = "dit-256-cfg1.0-s100"
    assert commands.text_file(image) is None and commands.text(image) == []


def test_the_chain_of_a_row_names_the_text_embeddings(paper: Profile) -> None:
    commands = Commands(paper, Path("results/paper"))
    links = {what: (path, made_by) for what, path, _, _, made_by in scored_with(commands, RUN, MetricsRecord())}
    assert links["text embeddings"] == (commands.text_file(SETTING), shown(commands.embed("stdit3-opensora")))
    assert "instruments" not in links


def test_clips_are_counted_by_prompts_before_the_suite_is_there(paper: Profile, tmp_path: Path) -> None:
    assert clips_of(paper) == 5 * 944 and profiles.sampled(paper, SETTING, "natural")["images"] == 4720
    assert profiles.shards(paper, SETTING, "natural") == range(118)
    suite = tmp_path / "suite.json"
    paper["video"]["suite"] = str(suite)
    suite.write_text(json.dumps([{"prompt_en": text} for text in ("a", "b", "a")]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"video\.prompts: found 944, .*suite\.json holds 2 distinct prompts"):
        clips_of(paper)
    paper["video"]["prompts"] = 2
    assert clips_of(paper) == 10
    del paper["video"]["prompts"]
    assert clips_of(paper) == 10


def test_the_text_encoders_files_are_those_below_its_folder(paper: Profile) -> None:
    folder = "weights/paper/t5-v1_1-xxl"
    files = profiles.encoder_files(paper, folder)
    assert len(files) == 8 and all(path.startswith(f"{folder}/t") for path in files)
    paper["models"][MODEL]["text_encoder"] = "/data/t5"
    assert profiles.encoder_files(paper, "/data/t5") == ["/data/t5/text_encoder/config.json"]
    needed = needed_files(paper)
    assert needed["/data/t5/text_encoder/config.json"] == [f"text encoder of {MODEL} (embed_prompts)"]
    assert not [path for path in needed if path.startswith(folder)]


def test_nothing_changes_for_models_of_pixels() -> None:
    mini = load_profile("mini")
    setting = next(name for name in mini["settings"] if profiles.family_at(mini, name).samples == "clips")
    flags = ["--steps", "15", "--cfg-scale", "2.5", "--seed", "0", "--shift", "2.5"]
    assert profiles.protocol_flags(mini, setting) == flags and profiles.embeddings_file(mini, setting) is None
    assert profiles.family_of(mini["models"]["stdit3-moving-digits"]).samples == "clips"
    assert profiles.family_of(mini["models"]["dit-digits"]).samples == "images"


def test_doctor_looks_for_the_packages_of_text_embeddings(paper: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "find_spec", lambda module: None if module == "ftfy" else object())
    (finding,) = text_packages(paper)
    assert not finding.ok and "ftfy, not installed here" in finding.text and "[embed_prompts]" in finding.text
    monkeypatch.setattr(text_encoder, "find_spec", lambda module: object())
    assert text_packages(paper)[0].ok and text_packages(load_profile("mini")) == []


def test_doctor_looks_for_vbenchs_environment(paper: Profile, tmp_path: Path) -> None:
    (missing,) = vbench_environment(paper, tmp_path)
    assert not missing.ok and f"make it with qdit vbench install {tmp_path}/envs/vbench" in missing.text
    python = tmp_path / "python"
    paper["vbench"]["python"] = str(python)
    assert [finding.ok for finding in vbench_environment(paper, tmp_path)] == [False]
    python.touch()
    assert [finding.ok for finding in vbench_environment(paper, tmp_path)] == [True]
    assert vbench_environment(load_profile("mini"), tmp_path) == []


BAD: dict[str, tuple[Callable[[Profile], Any], str]] = {
    "no VAE": (lambda p: p["models"][MODEL].pop("vae"), "found text_encoder without vae; a model of clip latents"),
    "both kinds of scores": (
        lambda p: p["models"][MODEL].update(instruments="weights/x"),
        "found instruments and text_encoder, vae; a video model with instruments has instruments only",
    ),
    "an extractor": (
        lambda p: p["models"][MODEL].update(extractor="inception-adm"),
        "found text_encoder and extractor; a video model with text_encoder has text_encoder and vae only",
    ),
    "no size of a clip": (lambda p: p["settings"][SETTING].pop("clip"), "missing clip, the size of the clips"),
    "half a size": (lambda p: p["settings"][SETTING]["clip"].pop("fps"), "clip: missing fps; add it"),
    "a clip of images": (
        lambda p: p["settings"]["dit-256-cfg1.0-s100"].update(clip={"frames": 1, "height": 8, "width": 8, "fps": 1}),
        "only video models of latents have it, remove it",
    ),
    "another sampler": (lambda p: p["settings"][SETTING].update(sampler="ddim"), "allowed are rectified-flow"),
    "another precision": (lambda p: p["video"].update(dtype="int8"), "allowed are float32, float16, bfloat16"),
    "no video": (
        lambda p: p.pop("video"),
        "found text_encoder, which makes it a video model, but the profile has no key video",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_values_are_one_line(name: str, paper: Profile) -> None:
    change, message = BAD[name]
    change(paper)
    with pytest.raises(ConfigError) as raised:
        validate(paper)
    assert message in str(raised.value) and "\n" not in str(raised.value)
