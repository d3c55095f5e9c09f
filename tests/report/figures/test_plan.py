"""Which figures a profile has, and of which data."""

import copy
import json
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.report.figures.plan import GROUPS, Subject, comparisons, find, planned, subjects
from qdit.workflow.profile import load_profile
from tests.report.figures.conftest import make_profile


@pytest.fixture
def profile() -> dict[str, Any]:
    return make_profile()


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_shipped_profiles(name: str) -> None:
    profile = load_profile(name)
    figures = planned(profile)
    names = [figure.name for figure in figures]
    assert len(set(names)) == len(names) > 20
    groups = [figure.group for figure in figures]
    assert list(dict.fromkeys(groups)) == list(GROUPS) and groups == sorted(groups, key=GROUPS.index)
    assert all(name.replace("-", "").replace(".", "").replace("_", "").isalnum() for name in names)
    for subject in subjects(profile):
        assert profile["settings"][subject.setting]["model"] == subject.model
        assert len(comparisons(profile, subject)) in (1, 2)


def test_a_place_is_the_first_setting_of_a_model_and_form(profile: dict[str, Any]) -> None:
    assert subjects(profile) == [Subject("dit-digits", "natural", "digits-cfg1.0-s20")]
    assert subjects(profile)[0].activations == "analysis/digits-cfg1.0-s20/natural/activations.npz"
    salient = copy.deepcopy(profile["tables"]["table2"]["blocks"][1]) | {"form": "salient"}
    profile["tables"]["table2"]["blocks"].append(salient)
    assert subjects(profile)[1] == Subject("dit-digits", "salient", "digits-cfg1.5-s20")


def test_the_hardest_bits_are_compared(profile: dict[str, Any]) -> None:
    (subject,) = subjects(profile)
    found = comparisons(profile, subject)
    assert [(one.bits, one.scope) for one in found] == [("w4a8", "common"), ("w4a4", "common")]
    assert all("fp" not in one.labels and len(one.labels) == 7 for one in found)
    assert found[1].errors == "analysis/digits-cfg1.0-s20/natural/errors-w4a4-common.npz"
    assert found[1].run("rtn").path == "digits-cfg1.0-s20/natural/rtn/w4a4-common"


def test_samples_are_of_a_blocks_hardest_bits(profile: dict[str, Any]) -> None:
    names = [figure.name for figure in planned(profile) if figure.kind == "samples"]
    assert names == [
        "samples-digits-cfg1.0-s20-natural-w4a8",
        "samples-digits-cfg1.5-s20-natural-w4a8",
        "samples-digits-cfg1.0-s20-natural-w4a4",
    ]


def test_figures_of_opt_in_tables_are_known_as_such(profile: dict[str, Any]) -> None:
    assert {figure.table: figure.opt_in for figure in planned(profile) if figure.group == "search"} == {
        "table6": False,
        "transfer": True,
    }


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_the_order_of_a_profiles_tables_does_not_matter(name: str) -> None:
    profile = load_profile(name)
    assert planned(json.loads(json.dumps(profile, sort_keys=True))) == planned(profile)


def test_an_unknown_name_is_one_line(profile: dict[str, Any]) -> None:
    assert find(profile, "group-sizes-table1").kind == "group-sizes"
    with pytest.raises(ConfigError, match=r"figure 'group-size'.*did you mean 'group-sizes-table1'"):
        find(profile, "group-size")
