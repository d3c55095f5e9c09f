"""The chain behind a table row: complete after a run, broken where a file was changed; the workflow's own commands."""

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.workflow import profile as profiles
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.explain import DIFFERS, MISSING, calibrated, chain, explain_text, find_run, listing
from qdit.workflow.profile import Profile, load_profile
from tests.workflow.checkout import Checkout

ROW = "q-dit w4a8"
OTHERS = ("fashion", "ablations", "table3", "tools", "w4a4")
"""Tables that are not planned here; clips are in test_video.py."""


@pytest.fixture
def there(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile of the run, with the checkout as the working directory."""
    monkeypatch.chdir(checkout.root)
    return load_profile(checkout.results / "profile.json")


def results_of(profile: Profile) -> Path:
    return Path("results", profile["profile"])


def test_every_link_holds_after_a_run(there: Profile) -> None:
    for row in map(str, range(1, len(profiles.runs_of(there, "table2")) + 1)):
        text, whole = explain_text(there, "table2", row, results_of(there))
        assert whole, text
    text, _ = explain_text(there, "table2", ROW, results_of(there))
    links = [link.what for link in chain(there, "table2", find_run(there, "table2", ROW), results_of(there))]
    assert links == [
        *("table", "metrics", "reference", "evaluator", "images", "images of full precision", "checkpoint"),
        *("tensors of the checkpoint", "calibration data trajectory", "allocation", "weights"),
        "checkpoint of full precision",
        *("tensors of the checkpoint of full precision", "weights"),
    ]
    assert "not that of this checkout" not in text
    assert text.count("that of this checkout") == 4
    assert text.endswith("13 of 13 links hold")  # the weights are shown once


CHANGES = {
    "table": "tables/table2.csv",
    "reference": "reference/digit-classifier/digits.npz",
    "images": "runs/digits-cfg1.0-s20/natural/q-dit/w4a8-common/samples/00001.npz",
    "checkpoint": "runs/digits-cfg1.0-s20/natural/q-dit/w4a8-common/checkpoint/config.json",
    "tensors of the checkpoint": "runs/digits-cfg1.0-s20/natural/q-dit/w4a8-common/checkpoint/model.safetensors",
    "calibration data trajectory": "calibration/dit-digits/natural/digits-cfg1.0-s20/trajectory.safetensors",
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("removed", [False, True])
def test_a_changed_or_missing_file_breaks_its_link(what: str, removed: bool, there: Profile, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(results_of(there), results)
    file = results / CHANGES[what]
    if removed:
        file.unlink()
    elif what in ("table", "checkpoint"):
        text = file.read_text()
        digest = re.findall(r"[0-9a-f]{64}", text)
        file.write_text(text + " " if what == "checkpoint" else text.replace("q-dit", "q-did") if not digest else "")
    else:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    links = {link.what: link for link in chain(there, "table2", find_run(there, "table2", ROW), results)}
    broken = [name for name, link in links.items() if link.broken]
    assert broken == [what]
    gone = removed and what != "images"  # of the images one chunk of several is gone
    assert links[what].check.startswith(MISSING if gone else DIFFERS)


def test_rows_are_found_by_number_or_words(there: Profile) -> None:
    rows = profiles.runs_of(there, "table2")
    assert [find_run(there, "table2", str(number)) for number in range(1, len(rows) + 1)] == rows
    assert find_run(there, "table2", ROW).label == "q-dit"
    assert find_run(there, "table2", find_run(there, "table2", ROW).path).label == "q-dit"
    assert [line.split()[1] for line in listing(there, "table2").splitlines()] == [run.path for run in rows]
    for table, row, message in [
        ("tabel2", "1", "did you mean 'table2'"),
        ("table2", "0", "rows 1 to 3"),
        ("table2", "4", "rows 1 to 3"),
        ("table2", "natural", "3 rows fit"),
        ("table2", "q-did", "0 rows fit"),
    ]:
        with pytest.raises(ConfigError, match=message) as raised:
            find_run(there, table, row)
        assert "\n" not in str(raised.value)


def words(shell: str) -> tuple[str, ...] | None:
    """A job's shell command without its log, its benchmark and its $(dirname …); None if it is none of qdit."""
    plain = re.sub(r"\$\(dirname ([^)]*)\)", lambda match: str(Path(match[1]).parent), shell)
    plain = re.sub(r"--benchmark \S+ ", "", plain.partition(" > ")[0])
    parts = tuple(shlex.split(plain))
    return parts if parts[:1] == ("qdit",) else None


def test_commands_are_the_workflows(plain: Checkout, tiny_plan: str) -> None:
    shells = re.findall(r"^Shell command: (.*)$", tiny_plan, flags=re.MULTILINE)
    printed = set(map(words, shells))
    profile = load_profile("mini", plain.root / "tests/workflow/tiny.yaml")
    commands = Commands(profile, Path("results", "tiny"))
    runs = {run for table in profile["tables"] if table not in OTHERS for run in profiles.runs_of(profile, table)}
    lines = {commands.evaluate(run) for run in runs}
    models = [commands.model(run.setting) for run in runs]
    lines |= {commands.reference(model["extractor"], model["reference"]) for model in models}
    lines |= {commands.sample(run, shard) for run in runs for shard in profiles.shards(profile, run.setting, run.form)}
    lines |= {commands.table(table) for table in profile["tables"] if table not in OTHERS}
    searches = {search for run in runs if (search := profiles.search_of(profile, run)) is not None}
    lines |= {f"{commands.search(search)} --workers 1" for search in searches}
    expected = {words(shown(line)) for line in lines}
    pages = {"claims", "leaderboard", "report", "figures", "analyze", "check-rows"}
    seen = {command[1] for command in printed if command} - pages
    assert seen == {"table", "evaluate", "reference", "sample", "quantize", "calibrate", "search"}
    for name in ("table", "evaluate", "reference", "sample", "search"):
        assert {c for c in printed if c and c[1] == name} == {c for c in expected if c and c[1] == name}
    check_inputs(printed, commands, {r for r in runs if r.mode == profiles.SIMULATE})


def check_inputs(printed: set[tuple[str, ...] | None], commands: Commands, runs: set[Run]) -> None:
    """Quantize jobs name their kinds of calibration data, which a run's checkpoint records."""
    quantized = {command[3]: command for command in printed if command and command[1] == "quantize"}
    calibrations = {command for command in printed if command and command[1] == "calibrate"}
    needed = set()
    for run in runs:
        command = quantized.pop(str(commands.checkpoint(run)))
        pairs = [after for word, after in pairwise(command) if word == "--calibration"]
        kinds = [pair.partition("=")[0] for pair in pairs]
        data = commands.calibration_files(run, kinds)
        assert words(shown(commands.quantize(run, data))) == command
        needed |= {words(calibrated(commands, run, kind)) for kind in kinds}
    assert not quantized
    assert needed <= calibrations
