"""The profile for a cluster: every rule that computes with the network gets a GPU, and the plugin accepts all of it."""

import re
from pathlib import Path

import pytest
import yaml

from qdit.workflow.method_index import method_facts
from tests.workflow.checkout import Checkout
from tests.workflow.test_paper import JOBS

pytestmark = pytest.mark.ci

COMPUTING = ("calibrate", "quantize", "sample", "search")


@pytest.fixture(scope="module")
def cluster(repository: Path) -> dict[str, object]:
    return yaml.safe_load((repository / "profiles" / "slurm" / "profile.yaml").read_text(encoding="utf-8"))


def rules(repository: Path) -> set[str]:
    """Names of the rules that are written out."""
    texts = [path.read_text(encoding="utf-8") for path in (repository / "rules").rglob("*.smk")]
    return {name for text in texts for name in re.findall(r"^(?:use rule \w+ as|rule) (\w+)", text, flags=re.MULTILINE)}


def test_every_rule_that_computes_gets_a_gpu(cluster, repository: Path) -> None:
    known, resources_of = rules(repository), cluster["set-resources"]
    assert set(resources_of) <= known
    # Of the mini profile only:
    mini = {"sample_integer", "evaluate_integer", "search_study", "sample_tool", "quantize_tool"}
    computing = {rule for rule in known - mini if rule.partition("_")[0] in COMPUTING}
    others = {"reference_adm", "embed_prompts", "vbench_dimension"}
    assert {rule for rule, resources in resources_of.items() if resources.get("gpu") == 1} == computing | others
    sized = {rule for rule in computing | others - {"reference_adm"} if not rule.startswith("quantize")}
    assert all({"mem_mb", "runtime", "cpus_per_gpu"} <= resources_of[rule].keys() for rule in sized)


def quantizations(printed: str) -> dict[str, tuple[int, int]]:
    """Label → megabytes and minutes of the planned quantizations."""
    blocks = re.findall(r"^rule quantize:\n((?: {4}.*\n)*)", printed, flags=re.MULTILINE)
    amounts = {}
    for block in blocks:
        label, memory, minutes = (re.search(rf"{name}=([^,\s]+)", block) for name in ("label", "mem_mb", "runtime"))
        assert label and memory and minutes
        amounts[label[1]] = int(memory[1]), int(minutes[1])
    return amounts


def test_the_plugin_plans_the_whole_reproduction(plain: Checkout, paper_plan: str) -> None:
    assert re.search(rf"^total +{JOBS}$", paper_plan, flags=re.MULTILINE)
    block = re.search(r"^rule sample:\n((?: {4}.*\n)*)", paper_plan, flags=re.MULTILINE)
    assert block is not None
    for resource in ("gpu=1", "mem_mb=32000", "runtime=240", "cpus_per_gpu=4"):
        assert resource in block[1]
    methods = yaml.safe_load((plain.root / "config" / "paper.yaml").read_text(encoding="utf-8"))["methods"]
    requested = quantizations(paper_plan)
    facts = {label: method_facts(methods[label]["method"]) for label in requested}
    assert requested == {label: (known.memory_mb, known.minutes) for label, known in facts.items()}
    assert requested["fp"] == (16_000, 60) and requested["ptq4dit"] == (64_000, 1440)
