"""Table 3 through the workflow on a random model: calibrate, quantize, sample in shards, score, table, MP4, explain."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdit.core.files import read_json
from qdit.core.metrics import DIMENSIONS
from qdit.core.mp4 import read_mp4
from qdit.workflow import profile as profiles
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.explain import calibrated, explain_text
from qdit.workflow.profile import load_profile
from tests.workflow.checkout import Checkout, copied
from tests.workflow.test_explain import words
from tests.workflow.tiny_video import write_tiny_video

pytestmark = pytest.mark.ci

OVERLAYS = ("tests/workflow/tiny.yaml", "tests/workflow/video.yaml")
RUNS = "runs/clips-cfg2.5-s15"


@pytest.fixture(scope="module")
def clips_checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which Table 3 was made."""
    copy = Checkout(copied(repository, tmp_path_factory.mktemp("video")))
    write_tiny_video(copy.root / "data/tiny-video")
    copy.snakemake("--cores", "2", "table3", overlays=OVERLAYS)
    return copy


@pytest.fixture
def there(clips_checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    monkeypatch.chdir(clips_checkout.root)
    return clips_checkout


def test_every_row_is_measured_and_clips_are_files_too(clips_checkout: Checkout) -> None:
    page = (clips_checkout.results / "tables" / "table3.html").read_text(encoding="utf-8")
    assert "mini-VBench (moving digits), not VBench’s scores" in page and "data:image/gif;base64," in page
    for path in (clips_checkout.results / RUNS).glob("*/*/*/metrics.json"):
        metrics = read_json(path)["metrics"]
        assert all(metrics[name] is not None for name in (*DIMENSIONS, "total", "mfvd", "fd_fp", "mse_fp")), path
    assert (
        read_mp4(clips_checkout.results / "tables" / "table3-clips" / "natural-q-dit-w4a8.mp4", frames=32).shape[1]
        == 128
    )


def test_a_second_run_finds_nothing_to_do(clips_checkout: Checkout) -> None:
    assert "Nothing to be done" in clips_checkout.snakemake("--cores", "1", "table3", overlays=OVERLAYS).stderr


def test_other_shards_keep_every_chunk(clips_checkout: Checkout, tmp_path: Path) -> None:
    samples = clips_checkout.results / RUNS / "natural" / "q-dit" / "w4a8-common" / "samples"
    before = {path.name: path.stat().st_mtime_ns for path in samples.glob("*.npz")}
    assert len(before) == 3, "eleven clips in chunks of four"
    (samples / "shard-000.json").unlink()
    target = str(samples.relative_to(clips_checkout.root) / "shard-000.json")
    clips_checkout.snakemake("--cores", "1", target, overlays=OVERLAYS)
    assert {path.name: path.stat().st_mtime_ns for path in samples.glob("*.npz")} == before


def test_editing_the_suite_plans_clips_and_scores_again_and_no_checkpoint(clips_checkout: Checkout) -> None:
    suite = clips_checkout.root / "data/tiny-video" / "suite.json"
    before = suite.read_text(encoding="utf-8")
    prompts = json.loads(before)
    prompts[0]["dimension"] = [*prompts[0]["dimension"], "imaging_quality"]
    suite.write_text(json.dumps(prompts), encoding="utf-8")
    try:
        rules = {job.rule for job in clips_checkout.plan("table3", overlays=OVERLAYS)}
    finally:
        suite.write_text(before, encoding="utf-8")
    assert rules >= {"sample_video", "evaluate_video", "table"}
    assert not rules & {"calibrate", "quantize", "sample", "evaluate"}


def test_commands_and_chains_are_the_workflows(there: Checkout) -> None:
    done = there.snakemake("--dry-run", "--forceall", "--printshellcmds", "table3", overlays=OVERLAYS)
    shells = re.findall(r"^Shell command: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE)
    printed = {
        line for line in map(words, shells) if line is not None and line[1] in ("calibrate", "sample", "evaluate")
    }
    profile = load_profile("mini", *(there.root / overlay for overlay in OVERLAYS))
    commands = Commands(profile, Path("results", "tiny"))
    runs = profiles.runs_of(profile, "table3")
    lines = {commands.evaluate(run) for run in runs}
    lines |= {commands.sample(run, shard) for run in runs for shard in profiles.shards(profile, run.setting, run.form)}
    assert {line for line in printed if line[1] != "calibrate"} == {words(shown(line)) for line in lines}
    data = {calibrated(commands, run, kind) for run in runs for kind in ("trajectory", "ndtc")}
    assert {line for line in printed if line[1] == "calibrate"} <= set(map(words, data))
    text, whole = explain_text(
        load_profile(there.results / "profile.json"), "table3", "natural q-dit", commands.results
    )
    assert whole, text
    assert "11 clips in 3 chunk files" in text and "prompts: data/tiny-video/suite.json" in text


BAD = {
    "an unknown word": (
        '[{"prompt_en": "a red cow, standing still", "dimension": ["scene"]}]',
        1,
        "unknown word 'cow'",
    ),
    "no prompts": ("[]", 2, "qdit: error: video.suite: data/tiny-video/suite.json does not hold a list of prompts"),
    "no JSON": ("{", 2, "qdit: error: video.suite: data/tiny-video/suite.json cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_suite_is_one_line(clips_checkout: Checkout, name: str) -> None:
    content, code, message = BAD[name]
    suite = clips_checkout.root / "data/tiny-video" / "suite.json"
    before = suite.read_text(encoding="utf-8")
    suite.write_text(content, encoding="utf-8")
    try:
        done = clips_checkout.snakemake("--cores", "1", "table3", overlays=OVERLAYS, code=code)
        logs = "".join(
            path.read_text(encoding="utf-8") for path in clips_checkout.results.glob(f"{RUNS}/*/*/*/logs/*.log")
        )
    finally:
        suite.write_text(before, encoding="utf-8")
    assert message in done.stdout + done.stderr + logs
