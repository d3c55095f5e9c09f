"""The full reproduction as Snakemake plans it, without any of its files; and what happens to them when it runs."""

import re
from collections import Counter
from pathlib import Path

import pytest

from qdit.workflow import profile as profiles
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.cost import Speed, jobs_of
from qdit.workflow.profile import load_profile
from tests.workflow.checkout import Checkout
from tests.workflow.test_explain import words

pytestmark = pytest.mark.ci

PAPER = ("config/paper.yaml",)
JOBS = 1441
"""Jobs of the whole plan, as docs/paper-profile.md says."""

OPT_IN = ("searched", "table2_first", "ptq4dit_table2", "qc")
FILE = "weights/paper/sd-vae-ft-mse/config.json"


@pytest.fixture(scope="module")
def planned(plain: Checkout) -> str:
    return plain.dry_run("all", *OPT_IN, overlays=PAPER)


def counts(text: str) -> Counter[str]:
    """Rule → jobs of the table that a dry run prints last."""
    table = text[text.rindex("Job stats:") :]
    return Counter({rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)})


def test_every_table_is_planned(planned: str) -> None:
    profile = load_profile("paper")
    for table in profile["tables"]:
        assert f"results/paper/tables/{table}.html" in planned, table
    planned_jobs = counts(planned)
    assert planned_jobs["table"] == len(profile["tables"])
    assert planned_jobs["import_weights"] == 3 and planned_jobs["reference_adm"] == 2
    assert not any(rule.startswith("train") for rule in planned_jobs)


def test_the_estimate_counts_the_jobs_of_the_plan(paper_plan: str) -> None:
    planned_jobs = counts(paper_plan)
    assert planned_jobs.pop("total") == JOBS
    estimated = Counter(job.rule for job in jobs_of(load_profile("paper"), Speed(1e12, "a test")))
    by_rule = Counter[str]()
    for rule, count in planned_jobs.items():
        by_rule[rule.partition("_")[0]] += count
    for rule in ("calibrate", "quantize", "search", "sample"):
        assert by_rule[rule] == estimated[rule], rule
    assert planned_jobs["evaluate"] + planned_jobs["evaluate_vbench"] == len(profiles.all_runs(load_profile("paper")))


def test_table_3_is_scored_by_vbench(planned: str) -> None:
    planned_jobs, runs = counts(planned), profiles.runs_of(load_profile("paper"), "table3")
    assert [run.label for run in runs] == ["fp", "g4w+p4a", "q-dit"]
    expected = {"embed_prompts": 1, "sample_video": 3 * 118, "vbench_clips": 3, "vbench_run": 3}
    expected |= {"vbench_ready": 16, "vbench_dimension": 3 * 16, "evaluate_vbench": 3}
    assert {rule: planned_jobs[rule] for rule in expected} == expected
    assert not planned_jobs["evaluate_video"] and not planned_jobs["vbench_env"]


def test_the_documented_number_of_jobs(repository: Path) -> None:
    assert f"{JOBS:,} jobs" in (repository / "docs" / "paper-profile.md").read_text(encoding="utf-8")


def test_nothing_of_the_mini_profile_is_taken(planned: str) -> None:
    assert "digits" not in planned


def test_a_missing_file_stops_at_once_and_a_present_one_is_never_touched(plain: Checkout) -> None:
    path = plain.root / FILE
    failed = plain.snakemake("--cores", "1", FILE, overlays=PAPER, code=1)
    assert f"qdit: error: {FILE}: missing; `qdit fetch`" in failed.stdout + failed.stderr
    assert not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    try:
        plain.snakemake("--cores", "1", FILE, overlays=PAPER)
        plain.snakemake("--cores", "1", "--force", FILE, overlays=PAPER)
        assert path.read_text(encoding="utf-8") == "{}"
    finally:
        path.unlink()


def test_jobs_may_not_download(plain: Checkout, paper_plan: str) -> None:
    text = (plain.root / "rules" / "common.smk").read_text(encoding="utf-8")
    assert '"HF_HUB_OFFLINE": "1"' in text
    assert "qdit fetch" not in paper_plan and "vbench install" not in paper_plan


def test_commands_of_table_3_are_those_that_explain_shows(paper_plan: str) -> None:
    shells = re.findall(r"^Shell command: (.*)$", paper_plan, flags=re.MULTILINE)
    profile = load_profile("paper")
    commands, runs = Commands(profile, Path("results/paper")), profiles.runs_of(profile, "table3")
    printed = {line for line in map(words, shells) if line is not None}
    lines = {commands.evaluate(run) for run in runs}
    lines |= {commands.sample(run, shard) for run in runs for shard in profiles.shards(profile, run.setting, run.form)}
    clips_sampled = {line for line in printed if line[1] == "sample" and "--text-embeddings" in line}
    scored = clips_sampled | {line for line in printed if line[1:3] == ("vbench", "score")}
    assert scored == {words(shown(line)) for line in lines}
    clips = [line for line in shells if " vbench clips " in line]
    assert len(clips) == 3 and all("--count 4720 --fps 24 --lossless" in line for line in clips)
