"""Profiles as files: names, overlays, JSON, repeated keys, and files that no profile is."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from qdit.core.errors import ConfigError
from qdit.workflow.profile import load_profile, profile_file, validate
from qdit.workflow.profile_files import command_values, merged, read_mapping

Profile = dict[str, Any]


@pytest.fixture
def profile() -> Profile:
    return load_profile("mini")


def test_names_and_paths_of_profiles(tmp_path: Path, repository: Path) -> None:
    assert profile_file("mini") == repository / "config" / "mini.yaml"
    assert profile_file("config/mini.yaml") == Path("config/mini.yaml")
    with pytest.raises(ConfigError, match=r"profile minni: no such file; .* did you mean 'mini'\?"):
        load_profile("minni")
    for text in ("", "[1]", "a: [", "a: !!python/object/apply:os.getpid []"):
        path = tmp_path / "profile.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
            load_profile(path)
        assert "\n" not in str(caught.value)


def test_overlay_changes_what_it_names_and_replaces_lists(tmp_path: Path, profile: Profile) -> None:
    overlay = tmp_path / "few.yaml"
    overlay.write_text("sampling: {images: 64}\ntables: {table4: {fitted: [rtn]}}\n")
    merged = load_profile("mini", overlay)
    assert merged["sampling"] == profile["sampling"] | {"images": 64}
    assert merged["tables"]["table4"]["fitted"] == ["rtn"]
    assert merged["tables"]["table2"] == profile["tables"]["table2"]


def test_profile_as_json_is_the_same_profile(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    assert load_profile(path) == profile


nested = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


@given(base=st.dictionaries(st.sampled_from("abc"), nested), overlay=st.dictionaries(st.sampled_from("abc"), nested))
def test_overlays_merge_as_snakemake_merges_them(base: Profile, overlay: Profile) -> None:
    theirs = copy.deepcopy(base)
    update_config(theirs, overlay)
    assert merged(base, overlay) == theirs


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD = {
    "repeated.yaml": (
        "sampling: {chunk: 8}\nseed: 1\nsampling:\n  images: 64\n",
        "'sampling' .* line 1 and .* 3",
    ),
    "within.yaml": ("sampling: {chunk: 8, images: 64, chunk: 4}", "key 'chunk' stands in line 1 and again in line 1"),
    "in-a-list.yaml": ("tables: {a: {blocks: [{form: a, form: b}]}}", "key 'form'"),
    "repeated.json": ('{"seed": 1, "sampling": {"chunk": 8, "chunk": 4}}', "key 'chunk' stands in one object twice"),
    "not.json": ("{", "not valid JSON"),
    "list.json": ("[1]", "found \\[1\\], expected a mapping"),
    "endless.yaml": ("a: &a {b: *a}", "1,000,000 values, or 50 levels"),
    "laughs.yaml": (LAUGHS, "1,000,000 values, or 50 levels"),
    "deep.yaml": ("a: " + "{b: " * 200 + "1" + "}" * 200, "1,000,000 values, or 50 levels"),
    "deeper.yaml": ("a: " + "[" * 20_000 + "]" * 20_000, "not valid YAML|50 levels"),
    "deeper.json": ("[" * 200_000 + "]" * 200_000, "not valid JSON|50 levels"),
    "binary.yaml": ("a: \x00", "not valid YAML"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_no_profile_is_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: .*({message})") as caught:
        read_mapping(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whole", ["mini", "paper", "record"])
def test_a_whole_profile_behind_an_overlay_does_not_replace_it_in_silence(
    tmp_path: Path, profile: Profile, whole: str
) -> None:
    overlay, record = tmp_path / "mine.yaml", tmp_path / "profile.json"
    overlay.write_text("profile: mine\nseed: 7\n", encoding="utf-8")
    record.write_text(json.dumps(profile), encoding="utf-8")
    last = record if whole == "record" else whole
    assert load_profile(last, overlay)["seed"] == 7
    for names in ((overlay, last), (last, overlay, last)):
        with pytest.raises(
            ConfigError, match="is a whole profile and stands after .*mine.yaml, whose values it replaces"
        ):
            load_profile(*names)


def test_merge_keys_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", encoding="utf-8")
    assert read_mapping(path)["b"] == {"x": 1, "y": 3}


def test_small_numbers_of_a_record_stay_numbers(tmp_path: Path, profile: Profile) -> None:
    profile["methods"]["tfmq-dm"]["options"]["rate"] = 0.00001
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile), encoding="utf-8")
    assert "1e-05" in path.read_text(encoding="utf-8"), "which YAML takes for a text"
    assert load_profile(path) == profile


def test_a_merged_profile_shares_nothing(profile: Profile) -> None:
    shared = {"x": [1]}
    expected = merged({"a": shared, "b": shared}, {"c": shared, "b": {"x": [2]}})
    expected["c"]["x"].append(3)
    assert expected == {"a": {"x": [1]}, "b": {"x": [2]}, "c": {"x": [1, 3]}} and shared == {"x": [1]}
    profile["methods"]["ptq4dit"]["options"]["iterations"] = 9
    assert profile["methods"]["tfmq-dm"]["options"]["iterations"] == 500


def test_values_of_a_command_are_numbers_also_inside_mappings() -> None:
    values = {"seed": 3, "profile": "7", "sampling": {"images": "64", "x": ["true", "a: b", "1.5", "w4a8"]}}
    expected = {"seed": 3, "profile": "7", "sampling": {"images": 64, "x": [True, "a: b", 1.5, "w4a8"]}}
    assert command_values(values) == expected


def test_models_read_as_objects_and_as_mappings_of_what_is_given(profile: Profile) -> None:
    model = validate(profile)
    assert model.settings["digits-cfg1.0-s20"].steps == model["settings"]["digits-cfg1.0-s20"]["steps"] == 20
    assert model.calibration.per_step == model["calibration"]["per-step"] == 400
    entry = model.methods["rtn"]
    assert "options" not in entry and entry.options == {} and entry.get("options") is None
    assert dict(model["sampling"]) == profile["sampling"]
    with pytest.raises(KeyError, match="base"):
        entry["base"]
