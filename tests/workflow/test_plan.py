"""What is planned after an edit: the steps that depend on it, and never the training of shipped weights."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.workflow.checkout import OVERLAYS, Checkout, Job, jobs_of

TABLES = {Job(rule, None) for rule in ("table", "claims", "leaderboard", "index", "figures", "check_all_rows", "all")}


def test_edited_method_replans_its_own_rows(checkout: Checkout) -> None:
    with checkout.edited("baselines/rtn.py"):
        of_rtn = {Job(rule, "rtn") for rule in ("quantize", "sample", "evaluate")}
        assert checkout.plan() == of_rtn | TABLES | {Job("analyze_errors", None)}


def test_edited_metric_replans_no_images(checkout: Checkout) -> None:
    evaluated = {Job("evaluate", label) for label in ("fp", "rtn", "q-dit")}
    with checkout.edited("qdit/metrics/evaluate.py"):
        assert checkout.plan() == evaluated | TABLES


def test_what_no_step_imports_replans_nothing(checkout: Checkout) -> None:
    training = ("qdit/mini/training/dit.py", "qdit/mini/training/classifier.py")
    with checkout.edited("qdit/cli/main.py", "qdit/workflow/doctor.py", "baselines/g4w_p4a.py", *training):
        assert checkout.plan() == set()


@pytest.mark.ci
def test_touched_sources_never_plan_training(checkout: Checkout) -> None:
    sources = [path for folder in ("qdit", "baselines", "rules") for path in (checkout.root / folder).rglob("*.*")]
    for path in sources:
        os.utime(path)
    with checkout.edited("qdit/models/dit.py", "qdit/core/seeds.py", "qdit/mini/training/dit.py"):
        rules = {job.rule for job in checkout.plan()}
    assert "calibrate" in rules
    assert not any(rule.startswith("train") for rule in rules)
    assert {"train_dit", "train_classifier"} <= {job.rule for job in checkout.plan("training")}


def test_more_images_keep_the_calibration_and_the_checkpoints(checkout: Checkout, tmp_path: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text("sampling: {images: 128}\n", encoding="utf-8")
    rules = {job.rule for job in checkout.plan(overlays=(*OVERLAYS, str(overlay)))}
    assert rules == {
        "sample",
        "evaluate",
        "table",
        "profile",
        "claims",
        "leaderboard",
        "index",
        "figures",
        "check_all_rows",
        "all",
    }


@pytest.mark.ci
def test_more_resamples_evaluate_again_and_sample_nothing(checkout: Checkout, tmp_path: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text("sampling: {resamples: 60}\n", encoding="utf-8")
    rules = {job.rule for job in checkout.plan(overlays=(*OVERLAYS, str(overlay)))}
    assert rules == {
        "evaluate",
        "table",
        "profile",
        "claims",
        "leaderboard",
        "index",
        "figures",
        "check_all_rows",
        "all",
    }


def test_a_search_is_planned_once_for_all_tables_that_ask_for_it(checkout: Checkout, tiny_plan: str) -> None:
    searches = re.findall(r"output: results/tiny/search/(\S+)/(\w+)/(w\da\d)\.json", tiny_plan)
    assert len(searches) == len(set(searches))
    tables = sorted(kind for point, kind, bits in searches if (point, bits) == ("digits-cfg1.0-s20/natural", "w4a8"))
    assert tables == ["evolution", "hessian", "ilp", "racing", "random", "response"], "of table4 and table6"
    racing = {(point, bits) for point, kind, bits in searches if kind == "racing"}
    homes = {("digits-cfg1.0-s20/natural", "w4a8"), ("digits-cfg1.0-s20/natural", "w4a4")}
    homes |= {("digits-cfg1.0-s20/salient", "w4a8"), ("digits16-cfg1.5-s10/natural", "w4a8")}
    assert racing == homes | {("digits-cfg1.0-s20/natural", "w6a8")}, "of the table transfer; q-dit's at W16A8"
    assert Job("quantize", "allocated-racing") in jobs_of(tiny_plan)
    assert not any(job.rule == "search" for job in checkout.plan("table1", overlays=OVERLAYS[:1]))


TOY = '''"""A method for a test."""

from qdit.methods.method import Method


class Toy(Method):
    """Nothing."""

    name = "toy"
    calibration = ("ndtc",)
    Options = None

    def quantize(self, model, **_):
        """Nothing."""
'''

TOY_RULE = """
use rule quantize as quantize_toy with:
    input:
        unpack(quantize_inputs("uniform")),
    wildcard_constraints:
        label=labels_of("toy"),
"""

TOY_OVERLAY = """
methods: {toy: {method: toy}}
tables: {table2: {blocks: [
  {setting: digits-cfg1.0-s20, form: natural, scope: common, bits: [w4a8], methods: [fp, toy]}]}}
"""


@pytest.mark.ci
def test_a_new_method_is_one_file_and_a_rule_only_where_it_wants_one(checkout: Checkout, tmp_path: Path) -> None:
    overlay = tmp_path / "toy.yaml"
    overlay.write_text(TOY_OVERLAY, encoding="utf-8")
    overlays = (*OVERLAYS, str(overlay))
    method, rule = checkout.root / "baselines" / "toy.py", checkout.root / "rules" / "baselines" / "toy.smk"
    planned = {}
    try:
        method.write_text(TOY, encoding="utf-8")
        for name in ("quantize", "quantize_toy"):
            printed = checkout.dry_run(overlays=overlays)
            pattern = rf"^rule {name}:\n    input: (.*)\n(?: {{4}}.*\n)*? {{4}}wildcards: .*label=toy,"
            (planned[name],) = re.findall(pattern, printed, flags=re.MULTILINE)
            rule.write_text(TOY_RULE, encoding="utf-8")
    finally:
        method.unlink()
        rule.unlink(missing_ok=True)
    assert "/ndtc.safetensors" in planned["quantize"] and "/uniform.safetensors" in planned["quantize_toy"]
    jobs = jobs_of(printed)
    assert {Job("quantize_toy", "toy"), Job("calibrate", None)} <= jobs
    assert {job.label for job in jobs} == {"toy", None}


def test_the_first_block_of_table_2_and_what_it_waits_for_comes_first(tiny_plan: str) -> None:
    planned = re.findall(r"^rule (\w+):\n((?: {4}.*\n)*)", tiny_plan, flags=re.MULTILINE)
    details = [
        (rule, dict(line.strip().split(": ", 1) for line in text.splitlines() if ": " in line))
        for rule, text in planned
    ]
    found = {
        (rule, job.get("wildcards", "").replace(", replicate=", "")): float(job.get("priority", 0))
        for rule, job in details
    }
    block = "setting=digits-cfg1.0-s20, form=natural, label=rtn, bits=w4a8, scope=common"
    other = "setting=digits-cfg1.0-s20, form=natural, label=rtn-g16-dynamic, bits=w4a8, scope=common"
    for rule, rest in (("quantize", ""), ("sample", ", shard=000"), ("evaluate", "")):
        assert found[rule, block + rest] > 7 and found[rule, other + rest] < 1
    search = "setting=digits-cfg1.0-s20, form=natural, search={}, bits=w4a8"
    assert found["search", search.format("racing")] > 6 > 1 > found["search", search.format("hessian")]
    assert found["calibrate", "model=dit-digits, form=natural, setting=digits-cfg1.0-s20, kind=trajectory"] > 7


def inputs_of_claims(printed: str) -> list[str]:
    """Inputs of the job that makes the page of claims, in the output of a dry run."""
    (line,) = re.findall(r"^rule claims:\n    input: (.*)$", printed, flags=re.MULTILINE)
    return str(line).split(", ")


def test_rows_of_claims_bring_their_page_and_the_default_run_takes_only_those_that_exist(checkout: Checkout) -> None:
    default, other = ("digits-cfg1.0-s20/natural/rtn/w4a8-common", "digits-cfg1.0-s20/natural/ditas-g16/w4a4-common")
    files = [f"results/tiny/runs/{row}/metrics.json" for row in (default, other)]
    printed = checkout.dry_run("claims_rows")
    assert set(files) <= set(inputs_of_claims(printed)), "the page waits for rows that do not exist yet"
    planned = jobs_of(printed)
    assert {Job("claims_rows", None), Job("evaluate", "ditas-g16")} <= planned
    assert not {"table", "leaderboard", "index", "all"} & {job.rule for job in planned}
    assert checkout.plan() == set()
    row = checkout.root / files[1]
    row.parent.mkdir(parents=True)
    try:
        row.write_text("{}", encoding="utf-8")
        printed = checkout.dry_run()
    finally:
        shutil.rmtree(row.parents[1])
    assert files[1] in inputs_of_claims(printed)
    assert {job.rule for job in jobs_of(printed)} == {"claims", "index", "check_all_rows", "all"}
