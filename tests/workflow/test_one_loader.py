"""Snakemake, `qdit validate` and Python read a profile with one loader: equal contents, equal verdicts, one line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import ConfigError
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.workflow.profile import load_profile
from tests.preloaded import SNAKEMAKE, python, snakemake

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "choice misspelt": ("ptq4dit", {"salience": "timesteps"}),
    "text for a truth value": ("ptq4dit", {"csb": "false"}),
    "choice cut off": ("tfmq-dm", {"fsc": "al"}),
    "text for a number": ("tfmq-dm", {"iterations": "ten"}),
    "negative": ("q-diffusion", {"iterations": -5}),
    "truth value for a number": ("q-dit", {"group_size": True}),
    "number in quotes": ("q-dit", {"group_size": "16"}),
    "fraction": ("g4w+p4a", {"group_size": 16.0}),
    "not a number": ("ptqd", {"rate": float("nan")}),
    "no such option": ("rtn", {"groupsize": 16}),
}
"""Options that were called valid once, or a traceback: method, and what is wrong."""

FILES = {
    "repeated key": (
        "seed: 1\nmethods:\n  rtn: {method: rtn}\nseed: 2\n",
        "'seed' stands in line 1 and again in line 4",
    ),
    "program in a profile": ("__use_yte__: true\nseed: 1\n", "unknown key '__use_yte__'"),
    "unknown key": ("smapling: {images: 64}\n", "did you mean 'sampling'?"),
    "guidance that is not a number": (
        "settings: {digits-cfg1.0-s20: {cfg_scale: .nan}}\n",
        "found nan, expected",
    ),
    "search option": (
        "searches: {evolution: {options: {iterations: '3'}}}\n",
        "iterations: found '3', expected",
    ),
    "race over other images": ("allocation: {images: 128}\n", "the last one must be all 128 images"),
}
"""Overlays that are refused → what the message says."""

PLANNER = """
import contextlib, io, json, sys
from snakemake.cli import main
found = []
for overlay in sys.argv[1:]:
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(["-n", "--quiet", "all", "--configfile", overlay])
            code = 0
        except SystemExit as end:
            code = end.code
    found.append([code, text.getvalue()])
print(json.dumps(found))
"""
"""Plans with each overlay, in one process, since Snakemake takes seconds to start."""


@dataclass(frozen=True)
class Overlay:
    """A file that is refused, and a part of the reason."""

    path: Path
    reason: str


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Overlay]:
    """Every overlay that is refused."""
    folder = tmp_path_factory.mktemp("refused")
    texts = dict(FILES)
    for name, (method, options) in OPTIONS.items():
        entry = json.dumps({"methods": {method: {"method": method, "options": options}}}).replace("NaN", ".nan")
        texts[name] = (entry, f"methods.{method}.options")
    overlays = {}
    for index, (name, (text, reason)) in enumerate(texts.items()):
        overlays[name] = Overlay(folder / f"{index}.yaml", reason)
        overlays[name].path.write_text(text, encoding="utf-8")
    return overlays


@pytest.fixture(scope="module")
def planned(refused: dict[str, Overlay], repository: Path) -> dict[str, tuple[int, str]]:
    """Exit code and messages of `snakemake -n` with every refused overlay."""
    paths = [str(overlay.path) for overlay in refused.values()]
    done = python(["-c", PLANNER, *paths], repository, packages=SNAKEMAKE, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(refused, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", [*FILES, *OPTIONS])
def test_a_refused_overlay_is_one_and_the_same_line_everywhere(
    name: str, refused: dict[str, Overlay], planned: dict[str, tuple[int, str]]
) -> None:
    overlay = refused[name]
    with pytest.raises(ConfigError) as caught:
        load_profile(overlay.path)
    line = str(caught.value)
    assert overlay.reason in line and "\n" not in line
    validated = CliRunner().invoke(app, ["validate", str(overlay.path)])
    assert validated.exit_code != 0 and (line in validated.output or str(validated.exception) == line)
    code, messages = planned[name]
    assert code == 2 and f"qdit: error: {line}\n" in messages and "Traceback" not in messages


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_the_command_line_and_of_python_are_refused_the_same_way(name: str, tmp_path: Path) -> None:
    method, options = OPTIONS[name]
    arguments = ["--method", method, "--bits", "w4a8", "--options", json.dumps(options)]
    missing = [str(tmp_path / "nothing.safetensors"), str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["quantize", *missing, *arguments])
    assert isinstance(done.exception, ConfigError), "before anything is loaded"
    by_command = str(done.exception)
    assert by_command.startswith(method) and "\n" not in by_command
    model = DiT(DiTConfig(input_size=4, patch_size=2, hidden_size=8, depth=1, num_heads=2, num_classes=2))
    with pytest.raises(ConfigError) as caught:
        quantize_model(model, method, weight_bits=4, activation_bits=8, options=options)
    assert str(caught.value) == by_command


ALIAS = "profile: aliased\nmethods: {ptq4dit: {options: {iterations: 7}, about: 'W$_{4}$ {label}'}}\n"


def snakemake_sees(folder: Path, repository: Path, *arguments: str) -> dict[str, Any]:
    """The profile that Snakemake writes down for the jobs of a run in `folder`."""
    common = ["--snakefile", str(repository / "Snakefile"), "--quiet", "all", "--cores", "1"]
    name = next(word for word in arguments if word.startswith("results/"))
    done = snakemake([*common, *arguments], folder, server="none")
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return content


@pytest.mark.ci
def test_snakemake_sees_what_python_loads_and_its_record_is_read_as_it_is(tmp_path: Path, repository: Path) -> None:
    overlay, tiny = tmp_path / "alias.yaml", repository / "tests" / "workflow" / "tiny.yaml"
    overlay.write_text(ALIAS + "tables: {table2: {title: 'braces {bits} W$_{8}$'}}\n", encoding="utf-8")
    values = ["--configfile", str(tiny), str(overlay), "--config", "sampling={chunk: 4}"]
    seen = snakemake_sees(tmp_path, repository, "results/aliased/profile.json", *values)
    assert seen == load_profile(tiny, overlay, values={"sampling": {"chunk": 4}})
    assert seen["sampling"] == {"images": 64, "chunk": 4, "chunks_per_shard": 8, "resamples": 50}
    iterations = {label: seen["methods"][label]["options"]["iterations"] for label in ("ptq4dit", "tfmq-dm", "ptqd")}
    assert iterations == {"ptq4dit": 7, "tfmq-dm": 10, "ptqd": 10}
    record = tmp_path / "results" / "aliased" / "profile.json"
    assert load_profile(record) == seen
    del (
        seen["methods"]["tq-dit"],
        seen["tables"]["tq_dit_table"],
        seen["tables"]["ablations"],
        seen["tables"]["differences"],
    )
    record.write_text(json.dumps(seen), encoding="utf-8")
    assert load_profile(record) == seen, "a record has all parts, so nothing of the default profile comes back"


@pytest.mark.ci
def test_a_standalone_profile_takes_nothing_of_the_default_one(tmp_path: Path, repository: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text("profile: mine\nsampling: {images: 500}\n", encoding="utf-8")
    paper = repository / "config" / "paper.yaml"
    seen = snakemake_sees(tmp_path, repository, "results/mine/profile.json", "--configfile", str(paper), str(overlay))
    assert seen == load_profile("paper", overlay) and "dit-digits" not in seen["models"]
    assert seen == load_profile("paper") | {
        "profile": "mine",
        "sampling": load_profile("paper")["sampling"] | {"images": 500},
    }


def test_an_overlay_reaches_one_of_the_places_of_an_alias(tmp_path: Path) -> None:
    overlay = tmp_path / "alias.yaml"
    overlay.write_text(ALIAS, encoding="utf-8")
    mini, changed = load_profile("mini"), load_profile("mini", overlay)
    assert changed["methods"]["ptq4dit"]["options"] == mini["methods"]["ptq4dit"]["options"] | {"iterations": 7}
    for label in ("tfmq-dm", "q-diffusion", "ptqd"):
        assert changed["methods"][label] == mini["methods"][label]
    assert changed == load_profile(overlay), "the default profile lies below an overlay in any case"
