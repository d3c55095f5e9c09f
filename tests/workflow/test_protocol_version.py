"""A protocol's number goes up whenever a number of its tables can move."""

import copy
import json
from pathlib import Path

import pytest

from qdit.core.files import read_json
from qdit.workflow.profile import load_profile
from qdit.workflow.protocol_version import FILE, MARK, changelog_digest, profile_digest, protocol_version

CHANGELOG = Path("CHANGELOG.md")
PROFILES = {"mini": (), "paper": ("config/paper.yaml",)}


@pytest.mark.parametrize("name", PROFILES)
def test_the_number_is_that_of_what_can_move_a_number(name: str) -> None:
    profile, known = load_profile(*PROFILES[name]), read_json(FILE)[name]
    current = {"profile": profile_digest(profile), "changelog": changelog_digest(CHANGELOG.read_text(encoding="utf-8"))}
    assert {key: known[key] for key in current} == current, (
        f"a number of the profile {name} can move: in {FILE} put {known['version'] + 1} and {json.dumps(current)}"
    )
    assert protocol_version(profile) == f"qdit-{name}/{known['version']}"


def test_a_changed_profile_has_a_name_of_its_own_and_words_change_nothing() -> None:
    profile = load_profile()
    plain = protocol_version(profile)
    for part, key, value in (("sampling", "images", 64), ("calibration", "uniform", 8), ("methods", "rtn", {})):
        other = copy.deepcopy(profile)
        other[part][key] = value
        assert protocol_version(other).startswith(f"{plain}+")
    worded = copy.deepcopy(profile) | {"face": "other words"}
    worded["sampling"]["chunks_per_shard"] = 2
    worded["methods"]["rtn-g36-dynamic"]["about"] = "other words"
    assert protocol_version(worded) == plain
    assert protocol_version(profile | {"profile": "mine"}).startswith("qdit-mine/0+")


def test_only_entries_that_move_numbers_count() -> None:
    text = f"# Changelog\n\n- {MARK} FID of\n  all rows moves.\n- New page.\n\n## Older\n"
    assert changelog_digest(text) == changelog_digest(text.replace("New page", "Another page"))
    assert changelog_digest(text) == changelog_digest(text.replace("FID of\n  all", "FID of all"))
    assert changelog_digest(text) != changelog_digest(text.replace("all rows", "some rows"))
    last = f"# Changelog\n\n### Changed\n\n- {MARK} FID moves.\n\n### Added\n\n- A page.\n"
    assert changelog_digest(last) == changelog_digest(last.replace("FID moves.", "FID moves.\n- Another page."))
