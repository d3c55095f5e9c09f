"""`qdit run`: which snakemake call it makes, and what it refuses."""

import subprocess
import sys
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


def test_a_template_that_snakemake_would_execute_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"__use_yte__: true\nprofile: ?open({str(mark)!r}, 'w').name\n", encoding="utf-8")
    for command in (["validate", str(overlay)], ["run", "table5", "--profile", "mini", "--profile", str(overlay)]):
        call = [sys.executable, "-m", "qdit", *command]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2 and "__use_yte__" in done.stderr and done.stderr.count("\n") == 1
    assert not mark.exists() and not (tmp_path / "results").exists()
