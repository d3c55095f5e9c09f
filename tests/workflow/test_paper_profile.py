"""The profile of the full reproduction: what it plans, and what its own keys refuse."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.report.data.published import read_published
from qdit.workflow.commands import Commands
from qdit.workflow.explain import imported
from qdit.workflow.fetch import needed_files
from qdit.workflow.profile import all_runs, default_tables, load_profile, runs_of, sampled, shards, validate

Profile = dict[str, Any]
FULL = "dit-256-cfg1.0-s100/natural/fp/w16a16-common"


@pytest.fixture(scope="module")
def loaded() -> Profile:
    return load_profile("paper")


@pytest.fixture
def paper(loaded: Profile) -> Profile:
    return copy.deepcopy(loaded)


def test_every_printed_row_of_the_papers_is_planned(paper: Profile, repository: Path) -> None:
    for table, printed in [("table2", "table2"), ("ptq4dit_table1", "ptq4dit_table1"), ("tq_dit_table", "tq_dit")]:
        settings = {
            (block["published"]["resolution"], block["published"]["steps"], block["published"]["cfg_scale"]): block
            for block in paper["tables"][table]["blocks"]
            if "published" in block
        }
        for row in read_published(repository / "results" / "published" / f"{printed}.csv"):
            block = settings[row["resolution"], row["steps"], row["cfg_scale"]]
            setting = paper["settings"][block["setting"]]
            assert (setting["steps"], setting["cfg_scale"]) == (row["steps"], row["cfg_scale"])
            assert paper["models"][setting["model"]]["reference"] == f"imagenet-{row['resolution']}"
            assert setting["sampler"] == ("ddim" if table == "table2" else "ddpm")
            bits = f"w{row['weight_bits']}a{row['activation_bits']}"
            assert bits in [*block["bits"], "w16a16"]
            assert setting.get("labels", "random") == ("random" if table == "table2" else "balanced")
    assert paper["sampling"]["images"] == 10_000
    assert {len(block["methods"]) for block in paper["tables"]["table1"]["blocks"]} == {6}
    sizes = {row["group_size"] for row in read_published(repository / "results" / "published" / "table1.csv")}
    assert set(paper["allocation"]["sizes"]) >= sizes - {96}


def test_tables_without_printed_numbers_are_only_made_when_asked_for(paper: Profile) -> None:
    opt_in = {"table2_first", "ptq4dit_table2", "qc", "searched"}
    assert set(default_tables(paper)) == set(paper["tables"]) - opt_in
    assert len(all_runs(paper)) == 104
    assert {run.bits for run in runs_of(paper, "table2")} == {"w16a16", "w6a8", "w4a8"}
    assert {run.bits for run in runs_of(paper, "table2_first")} == {"w16a16", "w8a8"}


def test_every_file_that_is_not_in_the_repository_says_where_it_is_from(paper: Profile) -> None:
    assert needed_files(paper).keys() == paper["files"].keys()


def test_commands_name_the_converted_weights_and_the_batch(paper: Profile) -> None:
    commands = Commands(paper, Path("results/paper"))
    run = Run("dit-512-cfg1.5-s50", "natural", "q-dit", "w4a8", "common")
    assert str(commands.weights(run.setting, run.form)) == "results/paper/weights/dit-xl-2-512-natural.safetensors"
    command = commands.import_weights("dit-xl-2-512", run.form)
    assert command.startswith("import-weights weights/paper/DiT-XL-2-512x512.pt results/paper/weights/")
    model = commands.model(run.setting)
    reference = commands.reference(model["extractor"], model["reference"])
    assert reference.startswith("import-reference weights/paper/VIRTUAL_imagenet512.npz")
    sample = commands.sample(run, 3)
    for flag in ("--vae weights/paper/sd-vae-ft-mse/", "--dtype float16", "--shard 3"):
        assert flag in sample


def change(path: str, value: Any) -> Callable[[Profile], None]:
    def apply(profile: Profile) -> None:
        *parents, last = path.split("/")
        for key in parents:
            profile = profile[key]
        if value is None:
            del profile[last]
        else:
            profile[last] = value

    return apply


BAD = [
    ("compute/device", "gpu", "compute.device: found 'gpu'; allowed are cpu, cuda"),
    ("compute/dtype", "int8", "allowed are float32, float16"),
    ("compute/devices", 4, "unknown key 'devices'; allowed are device, dtype; did you mean 'device'"),
    ("models/dit-xl-2-256/vae", "", "a text of at least 1 characters"),
    ("models/dit-xl-2-256/reference", "imagenet256", "did you mean 'imagenet-256'"),
    ("models/dit-xl-2-256/shape", {"input_sizes": 32}, "did you mean 'input_size'"),
    ("models/dit-xl-2-256/shape", {"depth": 0}, "at least 1"),
    ("standalone", "yes", "expected true or false"),
    ("references/imagenet-256", None, "'imagenet-256' is not defined"),
]
FILE = [
    ({"licence": None}, "missing licence"),
    ({"url": "ftp://a/b"}, "expected a web address"),
    ({"url": None}, "expected either url, or hub and file"),
    ({"hub": "owner/name", "file": "x"}, "expected either url, or hub and file"),
    ({"url": None, "hub": "owner/name"}, "expected either url, or hub and file"),
    ({"url": None, "hub": "name", "file": "x"}, "expected a repository on the Hugging Face hub"),
    ({"sha256": "abc"}, "expected a hex digest"),
    ({"sha256": 12345678}, "expected a text"),
    ({"megabytes": -1}, "at least 0"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_wrong_values_are_one_line(path: str, value: Any, message: str, paper: Profile) -> None:
    change(path, value)(paper)
    with pytest.raises(ConfigError) as raised:
        validate(paper)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("changes", "message"), FILE)
def test_wrong_sources_of_files_are_one_line(changes: Profile, message: str, paper: Profile) -> None:
    entry = paper["files"]["weights/paper/DiT-XL-2-256x256.pt"]
    for key, value in changes.items():
        change(key, value)(entry)
    with pytest.raises(ConfigError) as raised:
        validate(paper)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_path_can_be_changed_by_an_overlay(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    mine = {
        "models": {"dit-xl-2-256": {"forms": {"natural": "data/dit.safetensors"}, "vae": "data/ema/model.safetensors"}},
        "references": {"imagenet-512": "data/512.npz"},
        "extractors": {"inception-adm": "data/inception.pth"},
        "compute": {"device": "cpu"},
    }
    overlay.write_text(yaml.safe_dump(mine), encoding="utf-8")
    profile = load_profile("paper", overlay)
    commands, run = (
        Commands(profile, Path("results/paper")),
        Run("dit-256-cfg1.0-s100", "natural", "fp", "w16a16", "common"),
    )
    assert commands.weights(run.setting, run.form) == Path("data/dit.safetensors")
    assert imported(commands, run) is None
    assert "--vae data/ema/model.safetensors --dtype float16" in commands.sample(run, 0)
    assert "data/inception.pth" in commands.sample(run, 0)
    needed = needed_files(profile)
    assert {"data/ema/config.json", "data/512.npz"} <= needed.keys()
    assert "weights/paper/DiT-XL-2-256x256.pt" not in needed


def test_a_setting_has_a_share_of_the_images_where_it_says_so() -> None:
    """PTQ4DiT evaluates 5,000 images at 512 pixels, in fewer jobs."""
    paper = load_profile("paper")
    large, small = "dit-512-cfg1.5-ddpm-s50", "dit-256-cfg1.5-ddpm-s50"
    assert sampled(paper, large, "natural")["images"] == 5000
    assert sampled(paper, small, "natural")["images"] == 10_000
    assert (len(shards(paper, large, "natural")), len(shards(paper, small, "natural"))) == (3, 5)
    commands = Commands(paper, Path("results"))
    for setting, images in ((large, "5000"), (small, "10000")):
        run = Run(setting, "natural", "rtn", "w4a8", "own")
        for words in (commands.sample(run, 0).split(), commands.evaluate(run).split()):
            assert words[words.index("--images") + 1] == images


def test_images_are_compared_by_lpips_and_the_miniature_is_not(paper: Profile, tmp_path: Path) -> None:
    entry, needed = paper["perceptual"], needed_files(paper)
    assert all("LPIPS" in needed[entry[name]][0] for name in ("backbone", "linear"))
    run = Run("dit-256-cfg1.0-s100", "natural", "q-dit", "w4a8", "common")
    commands = Commands(paper, tmp_path)
    words = commands.perceptual(run).split()
    assert words[:3] == ["perceptual", str(commands.samples(run)), str(tmp_path / "runs" / FULL / "samples")]
    assert words[words.index("--device") + 1] == "cuda" and words[words.index("--network") + 1] == "alex"
    assert f"--lpips {commands.lpips_file(run)}" in commands.evaluate(run)
    mini = load_profile()
    small = Run("digits-cfg1.0-s20", "natural", "q-dit", "w4a8", "common")
    assert "--lpips" not in Commands(mini, tmp_path).evaluate(small) and not Commands(mini, tmp_path).lpips_weights()
    with pytest.raises(ConfigError, match=r"perceptual\.network"):
        validate(paper | {"perceptual": entry | {"network": "squeeze"}})
    with pytest.raises(ConfigError, match=r"perceptual\.linear: found .*expected a path below"):
        validate(paper | {"perceptual": entry | {"linear": "/etc/passwd"}})
