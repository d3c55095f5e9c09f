"""`qdit run`: which snakemake call it makes, and what it refuses."""

from pathlib import Path

import pytest

from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT
from qdit.workflow.profile import load_profile, runs_of
from qdit.workflow.run import check_targets, plan_text, printed, snakemake_command


def test_in_the_checkout_it_is_what_the_documentation_says() -> None:
    assert printed(snakemake_command(["table2"], ["mini"], cores="all", folder=ROOT)) == "snakemake --cores all table2"


def test_elsewhere_it_names_the_snakefile_and_its_options(tmp_path: Path) -> None:
    words = snakemake_command([], ["mini", "my.yaml"], cores="2", folder=tmp_path)
    assert words[words.index("--snakefile") + 1] == str(ROOT / "Snakefile")
    assert words[words.index("--workflow-profile") + 1] == str(ROOT / "profiles" / "default")
    assert words[words.index("--configfile") + 1 :] == [str(ROOT / "config" / "mini.yaml"), "my.yaml"]


def test_a_name_that_is_no_table_is_one_line() -> None:
    profile = load_profile("mini")
    assert check_targets(profile, ["table2"]) == ["table2"]
    with pytest.raises(ConfigError, match="table 'tabel2': allowed are table1, .*did you mean 'table2'"):
        check_targets(profile, ["tabel2"])


def test_the_plan_counts_rows_and_what_is_measured(tmp_path: Path) -> None:
    profile = load_profile("mini")
    first = runs_of(profile, "table5")[0]
    (tmp_path / "runs" / first.path).mkdir(parents=True)
    (tmp_path / "runs" / first.path / "metrics.json").write_text("{}")
    lines = plan_text(profile, ["table5"], tmp_path).splitlines()
    assert lines[1].split() == ["table5", str(len(runs_of(profile, "table5"))), "1"]
