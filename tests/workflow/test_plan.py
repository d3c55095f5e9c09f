"""What is planned after an edit: the steps that depend on it, and never the training of shipped weights."""

import os
from pathlib import Path

import pytest

from tests.workflow.checkout import OVERLAYS, Checkout, Job

TABLES = {Job("table", None), Job("all", None)}


def jobs_of_runs(*labels: str) -> set[Job]:
    return {Job(rule, label) for rule in ("sample", "evaluate") for label in labels} | TABLES


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("baselines/rtn.py", jobs_of_runs("rtn") | {Job("quantize_rtn", "rtn")}),
        ("qdit/q_dit.py", jobs_of_runs("q-dit") | {Job("quantize_q_dit", "q-dit")}),
        ("baselines/g4w_p4a.py", set()),
        ("qdit/tables/build.py", TABLES),
        (
            "qdit/metrics/evaluate.py",
            TABLES | {Job("evaluate", x) for x in ("fp", "rtn", "q-dit")} | {Job("reference", None)},
        ),
        ("qdit/sampling/run.py", jobs_of_runs("fp", "rtn", "q-dit")),
        ("qdit/training/dit.py", set()),
        ("qdit/training/classifier.py", set()),
        ("qdit/cli.py", set()),
    ],
)
def test_edit_replans_what_depends_on_it(checkout: Checkout, name: str, jobs: set[Job]) -> None:
    with checkout.edited(name):
        assert checkout.plan() == jobs


def test_touched_sources_never_plan_training(checkout: Checkout) -> None:
    sources = [path for part in ("qdit", "baselines") for path in (checkout.root / part).rglob("*.py")]
    for path in [*sources, *(checkout.root / "rules").rglob("*.smk")]:
        os.utime(path)
    assert checkout.plan() == set()
    with checkout.edited("qdit/models/dit.py", "qdit/seeds.py", "qdit/training/dit.py"):
        rules = {job.rule for job in checkout.plan()}
    assert "calibrate" in rules
    assert not any(rule.startswith("train") for rule in rules)
    assert {"train_dit", "train_classifier"} <= {job.rule for job in checkout.plan("training")}


def test_more_images_keep_the_calibration_and_the_checkpoints(checkout: Checkout, tmp_path: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text("sampling: {images: 128}\n", encoding="utf-8")
    rules = {job.rule for job in checkout.plan(overlays=(*OVERLAYS, str(overlay)))}
    assert rules == {"sample", "evaluate", "table", "profile", "all"}


TOY = '''"""A method for a test."""

from qdit.method import Method


class Toy(Method):
    """Nothing."""

    name = "toy"
'''

TOY_RULE = """
use rule quantize as quantize_toy with:
    input:
        unpack(quantize_inputs("ndtc")),
    wildcard_constraints:
        label=labels_of("toy"),
"""

TOY_OVERLAY = """
methods: {toy: {method: toy}}
tables: {table2: {blocks: [
  {setting: digits-cfg1.0-s20, form: natural, scope: common, bits: [w4a8], methods: [fp, toy]}]}}
"""


def test_new_method_is_one_file_and_one_rule(checkout: Checkout, tmp_path: Path) -> None:
    overlay = tmp_path / "toy.yaml"
    overlay.write_text(TOY_OVERLAY, encoding="utf-8")
    overlays = (*OVERLAYS, str(overlay))
    method, rule = checkout.root / "baselines" / "toy.py", checkout.root / "rules" / "baselines" / "toy.smk"
    assert "toy" in checkout.snakemake("--dry-run", overlays=overlays, code=2).stderr
    try:
        method.write_text(TOY, encoding="utf-8")
        assert Job("quantize", "toy") in checkout.plan(overlays=overlays)
        rule.write_text(TOY_RULE, encoding="utf-8")
        planned = checkout.plan(overlays=overlays)
        assert {Job("quantize_toy", "toy"), Job("calibrate", None)} <= planned
        assert not {job.label for job in planned} & {"rtn", "q-dit"}
    finally:
        method.unlink()
        rule.unlink(missing_ok=True)
