"""Profiles: what is wrong is said in one line that names the place, the value and what is allowed."""

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from qdit.core.errors import ConfigError
from qdit.methods.method import registry
from qdit.report.data.rows import run_keys
from qdit.workflow.method_index import method_sources
from qdit.workflow.profile import (
    Run,
    all_runs,
    default_tables,
    full_precision_run,
    listing,
    load_profile,
    merge,
    profile_file,
    runs_of,
    shards,
    split_bits,
    validate,
)

PLAIN, CLIPS = "digits-cfg1.0-s20", "clips-cfg2.5-s15"
Profile = dict[str, Any]


@pytest.fixture
def profile() -> Profile:
    return load_profile("mini")


def block(profile: Profile) -> Profile:
    found: Profile = profile["tables"]["table2"]["blocks"][0]
    return found


def add_table(profile: Profile, kind: str, **keys: Any) -> Profile:
    """A table more, of one block with one method (for kind qc: with the two controls)."""
    made = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w2a2"], "methods": ["fp", "rtn"]}
    profile["tables"]["more"] = {"kind": kind, "blocks": [made | keys]}
    found: Profile = profile["tables"]["more"]
    return found


def drop(profile: Profile, *path: str) -> None:
    for key in path[:-1]:
        profile = profile[key]
    del profile[path[-1]]


BAD: dict[str, tuple[Callable[[Profile], Any], str]] = {
    "unknown key": (lambda p: p.update(smapling={}), r"profile: unknown key 'smapling'.*did you mean 'sampling'\?"),
    "unknown key of sampling": (
        lambda p: p["sampling"].update(imags=9),
        r"sampling: unknown key 'imags'; allowed are images, chunk, chunks_per_shard, resamples; did you mean"
        r" 'images'\?",
    ),
    "unknown key of a model": (lambda p: p["models"]["dit-digits"].update(form={}), r"models\.dit-digits: .*'forms'"),
    "unknown key of a setting": (lambda p: p["settings"][PLAIN].update(stpes=2), rf"settings\.{PLAIN}: .*'steps'"),
    "unknown key of a method": (lambda p: p["methods"]["rtn"].update(option={}), r"methods\.rtn: .*'options'"),
    "unknown key of a table": (lambda p: p["tables"]["table2"].update(block=[]), r"tables\.table2: .*'blocks'"),
    "unknown key of a block": (lambda p: block(p).update(method=[]), r"tables\.table2\.blocks\[0\]: .*'methods'"),
    "unknown key of published": (
        lambda p: block(p)["published"].update(step=1),
        r"tables\.table2\.blocks\[0\]\.published: .*'steps'",
    ),
    "unknown kind of calibration": (
        lambda p: p["calibration"].update(trajectori=1),
        r"calibration: unknown key 'trajectori'.*'trajectory'",
    ),
    "unknown extractor": (
        lambda p: p["extractors"].update({"digit-clasifier": "x"}),
        r"extractors: found 'digit-clasifier'; allowed are .*; did you mean 'digit-classifier'\?",
    ),
    "missing key": (lambda p: drop(p, "seed"), "profile: missing seed; add it"),
    "missing count": (lambda p: drop(p, "sampling", "chunk"), "sampling: missing chunk; add it"),
    "zero images": (lambda p: p["sampling"].update(images=0), r"sampling\.images: found 0, expected at least 4"),
    "zero chunk": (lambda p: p["sampling"].update(chunk=0), r"sampling\.chunk: found 0, expected at least 1"),
    "images is a text": (lambda p: p["sampling"].update(images="64"), "found '64', expected a whole number"),
    "images is a fraction": (lambda p: p["sampling"].update(images=64.0), r"found 64\.0, expected a whole number"),
    "images is a boolean": (lambda p: p["sampling"].update(images=True), "found True, expected a whole number"),
    "zero steps": (lambda p: p["settings"][PLAIN].update(steps=0), rf"settings\.{PLAIN}\.steps: found 0"),
    "too many steps": (lambda p: p["settings"][PLAIN].update(steps=1001), "found 1001, expected at most 1000"),
    "guidance is not a number": (
        lambda p: p["settings"][PLAIN].update(cfg_scale=float("nan")),
        r"cfg_scale: found nan, expected a number",
    ),
    "unknown sampler": (
        lambda p: p["settings"][PLAIN].update(sampler="ddmi"),
        r"sampler: found 'ddmi'; allowed are ddim, ddpm, rectified-flow; did you mean 'dd",
    ),
    "unknown model": (lambda p: p["settings"][PLAIN].update(model="dit-digit"), r"model: 'dit-digit' .*'dit-digits'"),
    "name with a slash": (
        lambda p: p["settings"].update({"a/b": p["settings"][PLAIN]}),
        r"settings: found 'a/b', expected a name of letters",
    ),
    "profile that climbs": (lambda p: p.update(profile="../mini"), r"profile: found '\.\./mini', expected a name"),
    "W0A8": (
        lambda p: block(p).update(bits=["w0a8"]),
        r"bits\[0\]: found 'w0a8', expected weight bits 2 to 8 or 16 and activation bits 2 to 8 or 16",
    ),
    "W4A9": (lambda p: block(p).update(bits=["w4a9"]), r"bits\[0\]: found 'w4a9'"),
    "bits with a line end": (lambda p: block(p).update(bits=["w4a8\n"]), r"bits\[0\]: found 'w4a8\\n'"),
    "no bits": (lambda p: block(p).update(bits=[]), r"bits: found \[\], expected a list of length at least 1"),
    "unknown scope": (lambda p: block(p).update(scope="comon"), r"scope: .* did you mean 'common'\?"),
    "unknown setting of a block": (lambda p: block(p).update(setting="digits"), r"blocks\[0\]\.setting: 'digits'"),
    "unknown form of a block": (lambda p: block(p).update(form="salty"), r"form: 'salty' .* natural, salient"),
    "unknown label of a block": (
        lambda p: block(p)["methods"].append("rtnn"),
        r"tables\.table2\.blocks\[0\]\.methods: 'rtnn' .* did you mean 'rtn'\?",
    ),
    "label twice": (lambda p: block(p)["methods"].append("rtn"), "non-unique"),
    "unknown fitted label": (lambda p: p["tables"]["table4"]["fitted"].append("x"), r"tables\.table4\.fitted: 'x'"),
    "unknown method": (
        lambda p: p["methods"]["rtn"].update(method="q-ditt"),
        r"methods\.rtn\.method: 'q-ditt' is not defined; allowed are .*; did you mean 'q-dit'\?",
    ),
    "unknown option": (
        lambda p: p["methods"]["q-dit"]["options"].update(groupsize=16),
        r"methods\.q-dit\.options: q-dit has no option 'groupsize'; .* did you mean 'group_size'\?",
    ),
    "option of a method without": (lambda p: p["methods"]["fp"].update(options={"a": 1}), "fp has no option 'a'"),
    "allocation of a method without": (lambda p: p["methods"]["rtn"].update(allocation="data/a.json"), "'allocation'"),
    "group size 0": (
        lambda p: p["methods"]["q-dit"]["options"].update(group_size=0),
        r"methods\.q-dit\.options\.group_size: found 0, expected a whole number of at least 1",
    ),
    "group size is a text": (lambda p: p["methods"]["q-dit"]["options"].update(group_size="16"), "found '16'"),
    "no full precision": (lambda p: p["methods"]["fp"].update(method="rtn"), "add `fp: {method: fp}`"),
    "unknown kind of table": (lambda p: p["tables"]["table2"].update(kind="table7"), r"kind: found 'table7'"),
    "two bits in table 4": (
        lambda p: p["tables"]["table4"]["blocks"][0].update(bits=["w4a8", "w6a8"]),
        r"tables\.table4\.blocks\[0\]\.bits: found .* length at most 1",
    ),
    "opt-in is a text": (
        lambda p: p["tables"]["table2"].update(opt_in="yes"),
        r"opt_in: found 'yes', expected true or false",
    ),
    "about is empty": (lambda p: p["methods"]["rtn"].update(about=""), r"methods\.rtn\.about: "),
    "variants without a base": (lambda p: add_table(p, "variants"), r"tables\.more\.blocks\[0\]: missing base"),
    "base that is not in its block": (
        lambda p: add_table(p, "variants", base="rtnn"),
        r"tables\.more\.blocks\[0\]\.base: 'rtnn' is not defined; allowed are rtn; did you mean 'rtn'\?",
    ),
    "full precision as a base": (lambda p: add_table(p, "variants", base="fp"), r"base: 'fp' .* allowed are rtn"),
    "base in another kind": (lambda p: block(p).update(base="rtn"), "only blocks of kind variants have one"),
    "published numbers of the controls": (
        lambda p: add_table(p, "qc", published={"resolution": 256, "steps": 50, "cfg_scale": 1.5}),
        "tables of kind qc have no printed numbers",
    ),
    "one control": (lambda p: add_table(p, "qc", methods=["rtn"]), "expected a list of length at least 2"),
    "no positive control": (lambda p: add_table(p, "qc", methods=["rtn", "q-dit"]), "expected two controls: fp and"),
    "controls at two bits": (lambda p: add_table(p, "qc", bits=["w2a2", "w3a3"]), "bits: found .* at most 1"),
    "controls twice": (
        lambda p: add_table(p, "qc")["blocks"].append(p["tables"]["more"]["blocks"][0] | {"bits": ["w3a3"]}),
        rf"tables\.more\.blocks\[1\]: {PLAIN} natural has controls already",
    ),
    "clips in a table of images": (
        lambda p: block(p).update(setting=CLIPS),
        rf"tables\.table2\.blocks\[0\]\.setting: '{CLIPS}' makes clips, the table is of kind table2; .* table3 and qc",
    ),
    "images in the table of clips": (
        lambda p: p["tables"]["table3"]["blocks"][0].update(setting=PLAIN),
        rf"tables\.table3\.blocks\[0\]\.setting: '{PLAIN}' makes images",
    ),
    "sampler of images for a video model": (
        lambda p: p["settings"][CLIPS].update(sampler="ddim"),
        rf"settings\.{CLIPS}\.sampler: found 'ddim'; .* is a video model, allowed are rectified-flow",
    ),
    "rectified flow for an image model": (
        lambda p: p["settings"][PLAIN].update(sampler="rectified-flow"),
        "is an image model, allowed are ddim, ddpm",
    ),
    "shift of an image sampler": (lambda p: p["settings"][PLAIN].update(shift=2.5), "only rectified flow has one"),
    "no shift at all": (lambda p: p["settings"][CLIPS].update(shift=0), r"shift: found 0, expected more than 0"),
    "model that nothing scores": (
        lambda p: drop(p, "models", "dit-digits", "reference"),
        r"models\.dit-digits: missing reference; add it, or instruments if it is a video model",
    ),
    "model of both kinds": (
        lambda p: p["models"]["dit-digits"].update(instruments="weights/x"),
        r"models\.dit-digits: found instruments and extractor, reference",
    ),
    "video model without video": (lambda p: drop(p, "video"), "there is no `video`; add it"),
    "suite that is not there": (
        lambda p: p["video"].update(suite="data/nothing.json"),
        r"video\.suite: data/nothing\.json cannot be read \(.*\); qdit video suite writes one",
    ),
    "search on clips": (
        lambda p: p["tables"]["table3"]["blocks"][0]["methods"].append("allocated-racing"),
        "the workflow runs no searches on clips",
    ),
    "no tables": (lambda p: p.update(tables={}), "tables: found {}, expected a mapping with at least 1"),
    "section left empty": (lambda p: p.update(methods=None), "methods: found None, expected a mapping"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_profile_is_refused_in_one_line(profile: Profile, name: str) -> None:
    change, message = BAD[name]
    change(profile)
    with pytest.raises(ConfigError, match=message) as caught:
        validate(profile)
    assert "\n" not in str(caught.value)


def test_shipped_profile_is_valid_and_every_check_starts_from_it(profile: Profile) -> None:
    validate(profile)
    assert profile["profile"] == "mini"


def schemas(schema: Any) -> list[Any]:
    """Every sub-schema that describes a mapping."""
    found = []
    if isinstance(schema, dict):
        found += [schema] if schema.get("type") == "object" else []
        found += [sub for value in schema.values() for sub in schemas(value)]
    elif isinstance(schema, list):
        found += [sub for value in schema for sub in schemas(value)]
    return found


def test_schema_closes_every_mapping_but_the_options(repository: Path) -> None:
    schema = yaml.safe_load((repository / "config" / "schema.yaml").read_text(encoding="utf-8"))
    open_ones = [part for part in schemas(schema) if "additionalProperties" not in part]
    assert len(schemas(schema)) > 10
    assert open_ones == [{"type": "object"}] * 2, "options of methods and of searches, which their own code checks"


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
    ours, theirs = copy.deepcopy(base), copy.deepcopy(base)
    merge(ours, overlay)
    update_config(theirs, overlay)
    assert ours == theirs


def test_methods_read_from_the_sources_are_the_registered_ones() -> None:
    sources = method_sources()
    assert set(sources) == set(registry())
    for name, method in registry().items():
        assert sources[name].module == type(method).__module__
        written_here = method.Options.__module__ == type(method).__module__
        options = tuple(field.name for field in dataclasses.fields(method.Options))
        assert sources[name].options == (options if written_here else None)


def test_runs_are_the_rows_of_the_tables(profile: Profile) -> None:
    for table, definition in profile["tables"].items():
        if definition["kind"] in ("qc", "integer"):
            continue
        keys = [key for block in definition["blocks"] for key in run_keys(profile, block)]
        rows = [Run(key.setting, key.form, key.label, key.bits, key.scope) for key in keys]
        assert runs_of(profile, table) == list(dict.fromkeys(rows))
        for run, key in zip(rows, keys, strict=True):
            assert key.folder(Path()) == Path("runs", run.path)


def test_controls_wait_for_every_default_run_and_opt_in_tables_for_being_asked(profile: Profile) -> None:
    profile["tables"] = {name: profile["tables"][name] for name in ("table2", "table4")}
    before = all_runs(profile)
    add_table(profile, "qc")
    negative = Run(PLAIN, "natural", "rtn", "w2a2", "common")
    assert runs_of(profile, "more") == [*before, negative] == all_runs(profile)
    profile["tables"]["asked"] = {"opt_in": True, **profile["tables"]["more"], "kind": "variants"}
    profile["tables"]["asked"]["blocks"] = [profile["tables"]["more"]["blocks"][0] | {"bits": ["w3a3"], "base": "rtn"}]
    validate(profile)
    assert default_tables(profile) == ["table2", "table4", "more"]
    assert runs_of(profile, "more") == [*before, negative] == all_runs(profile)
    assert Run(PLAIN, "natural", "rtn", "w3a3", "common") in runs_of(profile, "asked")
    assert "asked (only when asked for by name):" in listing(profile) and "\nmore:\n" in listing(profile)


def test_full_precision_is_run_once_and_every_run_has_its_own(profile: Profile) -> None:
    runs = all_runs(profile)
    assert len(runs) == len(set(runs))
    for run in runs:
        full = full_precision_run(profile, run)
        assert full in runs
        assert full == Run(run.setting, run.form, "fp", "w16a16", run.scope)


@pytest.mark.parametrize(
    ("images", "chunk", "per_shard", "count"), [(1024, 64, 16, 1), (1025, 64, 16, 2), (64, 64, 16, 1), (256, 32, 2, 4)]
)
def test_shards_cover_the_images(profile: Profile, images: int, chunk: int, per_shard: int, count: int) -> None:
    profile["sampling"] = {"images": images, "chunk": chunk, "chunks_per_shard": per_shard}
    assert list(shards(profile)) == list(range(count))


def test_bits_are_split_and_anything_else_refused() -> None:
    assert split_bits("w4a16") == (4, 16)
    for text in ("4a8", "w4", "w4a8 ", "W4A8", "w-4a8"):
        with pytest.raises(ConfigError, match=re.escape(repr(text))):
            split_bits(text)
