"""The first block of Table 2 comes first in the plan, with all that its rows wait for."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdit.core.run import INTEGER, Run
from qdit.workflow.commands import Commands
from qdit.workflow.priorities import SHARED, STAGES, Priorities, leading_table, levels
from qdit.workflow.profile import Profile, load_profile, runs_of
from qdit.workflow.searches import SearchRun

FIRST = Run("digits-cfg1.0-s20", "natural", "rtn", "w4a8", "common")


@pytest.fixture(scope="module")
def mini() -> Profile:
    return load_profile("mini")


@pytest.fixture(scope="module")
def commands(mini: Profile) -> Commands:
    return Commands(mini, Path("results/mini"))


@pytest.fixture(scope="module")
def priorities(mini: Profile, commands: Commands) -> Priorities:
    return Priorities(mini, commands)


def test_the_leading_table_is_table_2_where_the_profile_makes_it(mini: Profile) -> None:
    assert leading_table(mini) == "table2"
    kept = {"table4": mini["tables"]["table4"], "table6": mini["tables"]["table6"]}
    assert leading_table({**mini, "tables": kept}) == "table4"
    assert leading_table({**mini, "tables": {}}) is None


def test_rows_come_in_the_order_in_which_a_reader_needs_them(priorities: Priorities) -> None:
    rows = [
        replace(FIRST, label="fp", bits="w16a16"),
        FIRST,
        replace(FIRST, label="tfmq-dm"),  # learned rounding
        replace(FIRST, bits="w6a8"),
        replace(FIRST, label="tfmq-dm", bits="w6a8"),
        replace(FIRST, bits="w4a4"),  # an appendix
        replace(FIRST, setting="digits-cfg1.5-ddpm-s25", scope="own"),  # another table
    ]
    values = [priorities.of_row(run, "quantize") for run in rows]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(values)
    other_block = replace(FIRST, setting="digits-cfg1.5-s20")
    assert priorities.of_row(other_block, "sample") == priorities.of_row(rows[5], "sample")
    assert priorities.of_row(replace(FIRST, label="q-dit"), "sample") == priorities.of_row(rows[2], "sample")
    assert priorities.of_row(replace(FIRST, mode=INTEGER), "sample") == STAGES["sample"]


def test_a_row_is_finished_before_one_of_its_level_begins(priorities: Priorities) -> None:
    values = [priorities.of_row(FIRST, stage) for stage in ("quantize", "sample", "evaluate")]
    assert values == sorted(values) and values[0] < values[2] < priorities.of_row(FIRST, "quantize") + 1


def test_files_are_as_urgent_as_the_most_urgent_row_that_needs_them(priorities: Priorities, commands: Commands) -> None:
    level = priorities.of_row(replace(FIRST, label="q-dit"), "quantize") - STAGES["quantize"]
    search = SearchRun(FIRST.setting, FIRST.form, commands.profile["methods"]["q-dit"]["search"], "w4a8")
    assert priorities.of_file(commands.search_file(search)) == pytest.approx(level + SHARED)
    assert priorities.of_file(commands.search_file(replace(search, form="salient"))) < level
    assert priorities.of_file(commands.reference_file(FIRST.setting)) > level
    assert priorities.of_file(commands.calibration_file(FIRST.setting, FIRST.form, "trajectory")) > level
    assert priorities.of_file(Path("results/mini/search/none.json")) == SHARED


def test_a_corrected_checkpoint_is_as_urgent_as_its_correction(mini: Profile) -> None:
    methods = {**mini["methods"], "rtn": {**mini["methods"]["rtn"], "base": "gptq-of-a-test"}}
    methods["gptq-of-a-test"] = mini["methods"]["rtn"]
    profile = {**mini, "methods": methods}
    priorities = Priorities(profile, Commands(profile, Path("results/mini")))
    base = replace(FIRST, label="gptq-of-a-test")
    assert priorities.of_row(base, "quantize") == priorities.of_row(FIRST, "quantize")


def test_a_table_of_one_block_has_no_rest(mini: Profile) -> None:
    found = levels(mini, "table5")
    assert list(found) == runs_of(mini, "table5") and min(found.values()) > 1


def test_clips_and_other_first_tables_have_priorities_too(mini: Profile) -> None:
    profile = {**mini, "tables": {"table3": mini["tables"]["table3"]}}
    commands = Commands(profile, Path("results/mini"))
    runs = runs_of(profile, "table3")
    priorities = Priorities(profile, commands)
    assert priorities.of_row(runs[0], "sample") > priorities.of_row(runs[1], "sample") > 1
