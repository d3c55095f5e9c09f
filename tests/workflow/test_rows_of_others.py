"""Rows of tools and of images in a profile: what an entry may say, which runs it gives, the commands of its jobs."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qdit.cli.main import app
from qdit.core.errors import ConfigError
from qdit.core.run import IMPORTED, TOOL, Run
from qdit.report.data.rows import run_keys
from qdit.workflow.commands import Commands
from qdit.workflow.profile import all_runs, default_tables, load_profile, run_shards, runs_of, validate

PLAIN = "digits-cfg1.0-s20"
Profile = dict[str, Any]
MINE = {"images": {"w4a8": "data/mine.npz"}, "setting": PLAIN, "form": "natural", "about": "My method"}


@pytest.fixture
def profile() -> Profile:
    """The mini profile with images of another program in Table 2."""
    profile = load_profile("mini")
    profile["methods"]["mine"] = {"method": "imported", **MINE}
    blocks = profile["tables"]["table2"]["blocks"]
    blocks[0] = blocks[0] | {"methods": [*blocks[0]["methods"], "mine"]}
    return profile


def test_the_default_plan_has_no_row_of_a_tool() -> None:
    profile = load_profile("mini")
    assert "tools" in profile["tables"] and "tools" not in default_tables(profile)
    assert {run.mode for run in all_runs(profile)} == {"simulate"}


def test_the_table_has_three_tools_and_five_methods_at_three_bits() -> None:
    runs = runs_of(load_profile("mini"), "tools")
    for bits in ("w8a8", "w4a8", "w4a16"):
        here = [run for run in runs if run.bits == bits]
        assert [run.label for run in here if run.mode == TOOL] == ["torchao", "optimum-quanto", "sdnq"]
        assert len([run for run in here if run.mode == "simulate"]) >= 5
    assert runs[0] == Run(PLAIN, "natural", "fp", "w16a16", "common")
    assert Run(PLAIN, "natural", "sdnq", "w4a16", "common", TOOL).path.endswith("sdnq/w4a16-common-tool")


def test_images_are_a_row_at_their_own_bits_only(profile: Profile) -> None:
    validate(profile)
    rows = [run for run in runs_of(profile, "table2") if run.label == "mine"]
    assert rows == [Run(PLAIN, "natural", "mine", "w4a8", "common", IMPORTED)]
    assert run_keys(profile, profile["tables"]["table2"]["blocks"][0])[-1] == rows[0]
    assert list(run_shards(profile, rows[0])) == [0]


def test_a_profile_needs_no_method_beside_tool_or_images(tmp_path: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text(f"methods: {{mine: {{images: {{w4a8: data/a}}, setting: {PLAIN}, form: natural}}}}\n")
    methods = load_profile(overlay)["methods"]
    assert methods["mine"]["method"] == IMPORTED and methods["sdnq"]["method"] == "sdnq"
    validate(load_profile(overlay))


def entry(**values: Any) -> Callable[[Profile], Any]:
    return lambda p: p["methods"].update(mine={**MINE, **values})


def block_of(profile: Profile, table: str, **values: Any) -> None:
    blocks = profile["tables"][table]["blocks"]
    blocks[0] = blocks[0] | values


BAD: dict[str, tuple[Callable[[Profile], Any], str]] = {
    "unknown tool": (lambda p: p["methods"].update(t={"tool": "torcha"}), r"methods.t.tool: 'torcha' is not defined;"),
    "tool with options": (
        lambda p: p["methods"].update(t={"tool": "sdnq", "options": {}}),
        r"methods.t: found options; an entry of a tool has about, method, tool only",
    ),
    "tool and images": (entry(tool="sdnq"), r"methods.mine: found tool and images; a row is one of the two"),
    "another method": (entry(method="rtn"), r"methods.mine.method: found 'rtn'; an entry of images has 'imported'"),
    "no setting": (
        lambda p: p["methods"].update(mine={"images": {"w4a8": "data/a"}, "form": "natural"}),
        r"methods.mine: missing setting: which rows the images stand beside",
    ),
    "unknown setting": (entry(setting="digits"), r"methods.mine.setting: 'digits' is not defined"),
    "unknown form": (entry(form="salty"), r"methods.mine.form: 'salty' is not defined; .* did you mean 'salient'"),
    "another setting": (
        entry(setting="digits-cfg1.5-s20"),
        r"table2.blocks\[0\].methods: the images of mine are of setting digits-cfg1.5-s20, the block is of",
    ),
    "no bits of the block": (
        entry(images={"w2a2": "data/a"}),
        r"mine has images at w2a2 only, the block has w6a8, w4a8; add the bits to either",
    ),
    "no bits": (entry(images={}), r"methods.mine.images: found \{\}, expected a mapping with at least"),
    "bits that do not exist": (
        entry(images={"w9a8": "data/a"}),
        r"methods.mine.images.* found 'w9a8', expected weight",
    ),
    "a path outside": (
        entry(images={"w4a8": "../a"}),
        r"methods.mine.images.w4a8: found '../a', expected a path below",
    ),
    "setting of a method": (
        lambda p: p["methods"]["rtn"].update(setting=PLAIN),
        r"methods.rtn: found setting; only entries of images have them",
    ),
    "kind of table": (
        lambda p: block_of(p, "table6", methods=["fp", "sdnq"]),
        r"sdnq is the tool sdnq; tables of kind table6 have rows of methods only, allowed are table2",
    ),
    "clips by a tool": (
        lambda p: block_of(p, "table3", methods=["fp", "sdnq"]),
        r"sdnq is a tool, and tools quantize DiTs only",
    ),
    "not opt-in": (
        lambda p: block_of(p, "table2", methods=["fp", "sdnq"]),
        r"sdnq is a tool, whose environment is downloaded from PyPI; such a table needs opt_in: true",
    ),
    "images among clips": (
        lambda p: block_of(p, "table3", methods=["fp", "mine"]),
        r"the images of mine are of setting digits-cfg1.0-s20, the block is of clips",
    ),
    "scope own": (
        lambda p: block_of(p, "ptq4dit_table1", methods=["fp", "sdnq"]),
        r"sdnq is a tool, and tools quantize scope common only",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_wrong_row_is_refused_in_one_line(profile: Profile, fault: str) -> None:
    change, words = BAD[fault]
    change(profile)
    with pytest.raises(ConfigError, match=words) as refused:
        validate(profile)
    assert "\n" not in str(refused.value)


def test_commands_of_a_tools_row() -> None:
    commands = Commands(load_profile("mini"), Path("results/mini"))
    run = Run(PLAIN, "natural", "optimum-quanto", "w8a8", "common", TOOL)
    folder = f"results/mini/runs/{run.path}"
    quantize = commands.quantize(run, {"trajectory": "data.safetensors"})
    assert quantize.startswith(
        f"tools quantize weights/dit-digits-natural.safetensors {folder}/checkpoint --tool optimum"
    )
    assert "--bits w8a8 --python results/mini/envs/tools/bin/python --calibration data.safetensors" in quantize
    sample = commands.sample(run, 0)
    assert sample.startswith(f"tools sample {folder}/checkpoint {folder}/samples") and "--steps 20" in sample
    assert "--mode" not in sample and "--chunk 32" in sample
    assert f"--checkpoint {folder}/checkpoint" in commands.evaluate(run)
    assert "--labels" not in sample
    full = f"results/mini/runs/{PLAIN}/natural/fp/w16a16-common/checkpoint"
    speed = f"tools speed {folder}/checkpoint {folder}/speed.json --full-precision {full} --chunk 32"
    assert commands.speed(run).startswith(speed)


def test_a_tool_samples_the_labels_of_its_setting(profile: Profile) -> None:
    """The command takes every flag that the workflow gives it."""
    profile["settings"][PLAIN]["labels"] = "balanced"
    commands = Commands(profile, Path("results/mini"))
    run = Run(PLAIN, "natural", "sdnq", "w8a8", "common", TOOL)
    tools = get_command(app).commands["tools"]  # type: ignore[attr-defined]
    for text in (commands.sample(run, 0), commands.speed(run)):
        _, name, *words = shlex.split(text)
        parsed = tools.commands[name].make_context(name, words).params
        assert parsed["labels"] == "balanced" and parsed["steps"] == 20


def test_commands_of_an_imported_row(profile: Profile) -> None:
    commands = Commands(profile, Path("results/mini"))
    run = Run(PLAIN, "natural", "mine", "w4a8", "common", IMPORTED)
    folder = f"results/mini/runs/{run.path}"
    full = f"results/mini/runs/{PLAIN}/natural/fp/w16a16-common/samples"
    imported = commands.sample(run, 0)
    assert imported.startswith(f"import-samples data/mine.npz {folder}/samples --chunk 32 --images 512")
    assert f"--like {full}" in imported
    evaluate = commands.evaluate(run)
    assert "--checkpoint" not in evaluate and "--steps" not in evaluate
    assert "--bits w4a8 --scope common" in evaluate and f"--fp-samples {full}" in evaluate
