"""The profiles flux and wan as Snakemake plans them, without any of their files."""

import pytest

from qdit.workflow import profile as profiles
from qdit.workflow.profile import load_profile
from tests.workflow.checkout import Checkout
from tests.workflow.test_paper import counts

pytestmark = pytest.mark.ci


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_every_row_is_planned_without_files(plain: Checkout, name: str) -> None:
    planned = counts(plain.dry_run("all", overlays=(f"config/{name}.yaml",)))
    profile = load_profile(name)
    runs = profiles.all_runs(profile)
    shards = sum(len(profiles.run_shards(profile, run)) for run in runs)
    expected = {"quantize": len(runs), "sample": shards, "evaluate": len(runs), "perceptual": len(runs)}
    expected |= {"judge": 3 * len(runs), "judge_reference": 1, "reference_adm": 1, "calibrate": 2}
    assert {rule: planned[rule] for rule in expected} == expected
    # two lists of prompts, the pipeline, Inception, LPIPS (2), CLIP (2), ImageReward (2), DINOv2
    assert planned["needed_file"] == 11
