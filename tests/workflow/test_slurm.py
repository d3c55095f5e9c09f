"""The profile for a cluster: every rule that computes with the network gets a GPU, and the plugin accepts all of it."""

import re
from pathlib import Path

import pytest
import yaml

from tests.workflow.checkout import Checkout

COMPUTING = ("calibrate", "quantize", "sample", "search")


@pytest.fixture(scope="module")
def cluster(repository: Path) -> dict[str, object]:
    return yaml.safe_load((repository / "profiles" / "slurm" / "profile.yaml").read_text(encoding="utf-8"))


def rules(repository: Path) -> set[str]:
    """Names of the rules that are written out."""
    texts = [path.read_text(encoding="utf-8") for path in (repository / "rules").rglob("*.smk")]
    return {name for text in texts for name in re.findall(r"^(?:use rule \w+ as|rule) (\w+)", text, flags=re.MULTILINE)}


def test_every_rule_that_computes_gets_a_gpu(cluster, repository: Path) -> None:
    known, given = rules(repository), cluster["set-resources"]
    assert set(given) <= known
    # Of the mini profile only:
    mini = {"sample_integer", "evaluate_integer", "search_study"}
    computing = {rule for rule in known - mini if rule.partition("_")[0] in COMPUTING}
    others = {"reference_adm", "embed_prompts", "vbench_dimension"}
    assert {rule for rule, resources in given.items() if resources.get("gpu") == 1} == computing | others
    assert all(
        {"mem_mb", "runtime", "cpus_per_gpu"} <= given[rule].keys() for rule in computing | others - {"reference_adm"}
    )


def test_the_plugin_plans_the_whole_reproduction(checkout: Checkout) -> None:
    arguments = ("--dry-run", "--workflow-profile", "profiles/slurm")
    done = checkout.snakemake(*arguments, overlays=("config/paper.yaml",))
    assert re.search(r"^total +4161$", done.stdout + done.stderr, flags=re.MULTILINE)
    block = re.search(r"^rule sample:\n((?: {4}.*\n)*)", done.stdout + done.stderr, flags=re.MULTILINE)
    assert block is not None
    for resource in ("gpu=1", "mem_mb=32000", "runtime=240", "cpus_per_gpu=4"):
        assert resource in block[1]
