"""Profiles: what is wrong is said in one line that names the place, the value and what is allowed."""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.report.data.rows import run_keys
from qdit.workflow.commands import Commands
from qdit.workflow.method_index import MethodIndex
from qdit.workflow.profile import (
    all_runs,
    default_tables,
    full_precision_run,
    listing,
    load_profile,
    runs_of,
    sampled,
    shards,
    validate,
)
from qdit.workflow.profile_fields import Part
from qdit.workflow.profile_models import ProfileModel
from qdit.workflow.profile_references import check_corrected

PLAIN, CLIPS = "digits-cfg1.0-s20", "clips-cfg2.5-s15"
Profile = dict[str, Any]


@pytest.fixture
def profile() -> Profile:
    return load_profile("mini")


def block(profile: Profile) -> Profile:
    block: Profile = profile["tables"]["table2"]["blocks"][0]
    return block


def add_table(profile: Profile, kind: str, **keys: Any) -> Profile:
    """A table more, of one block with one method (for kind qc: with the two controls)."""
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w2a2"], "methods": ["fp", "rtn"]}
    profile["tables"]["more"] = {"kind": kind, "blocks": [block | keys]}
    table: Profile = profile["tables"]["more"]
    return table


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
        r"sampler: found 'ddmi'; allowed are ddim, ddpm, rectified-flow, pipeline; did you mean 'dd",
    ),
    "unknown model": (lambda p: p["settings"][PLAIN].update(model="dit-digit"), r"model: 'dit-digit' .*'dit-digits'"),
    "name with a slash": (
        lambda p: p["settings"].update({"a/b": p["settings"][PLAIN]}),
        r"settings: found 'a/b', expected a name of at most 100 letters",
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
    "label twice": (
        lambda p: block(p)["methods"].append("rtn"),
        r"tables\.table2\.blocks\[0\]\.methods: found 'rtn' twice, expected a list without repetition",
    ),
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
    "shift of an image sampler": (
        lambda p: p["settings"][PLAIN].update(shift=2.5),
        "found 2.5; only settings with rectified flow",
    ),
    "no shift at all": (lambda p: p["settings"][CLIPS].update(shift=0), r"shift: found 0, expected more than 0"),
    "model that nothing scores": (
        lambda p: drop(p, "models", "dit-digits", "reference"),
        r"models\.dit-digits: missing reference; add it, or instruments if it is a video model",
    ),
    "model of both kinds": (
        lambda p: p["models"]["dit-digits"].update(instruments="weights/x"),
        r"models\.dit-digits: found instruments and extractor, reference",
    ),
    "video model without video": (lambda p: drop(p, "video"), "the profile has no key video; add it"),
    "suite that is not there": (
        lambda p: p["video"].update(suite="data/nothing.json"),
        r"video\.suite: data/nothing\.json cannot be read \(.*\); qdit video suite writes one",
    ),
    "search on clips": (
        lambda p: p["tables"]["table3"]["blocks"][0]["methods"].append("allocated-racing"),
        "the workflow runs no searches on clips",
    ),
    "no tables": (lambda p: p.update(tables={}), "tables: found {}, expected a mapping with at least 1"),
    "null for an option key": (
        lambda p: p["methods"]["rtn"].update(base=None),
        r"methods\.rtn\.base: found None; give a value, or leave the key out",
    ),
    "exponent without a point": (
        lambda p: p["settings"][PLAIN].update(cfg_scale="1e1"),
        r"cfg_scale: found '1e1', expected a number; write 10",
    ),
    "infinite guidance": (
        lambda p: p["settings"][PLAIN].update(cfg_scale=float("inf")),
        "found inf, expected a number",
    ),
    "guidance below 1": (
        lambda p: p["settings"][PLAIN].update(cfg_scale=0.5),
        rf"settings\.{PLAIN}\.cfg_scale: found 0\.5, expected at least 1",
    ),
    "guidance that no sampler takes": (
        lambda p: p["settings"][PLAIN].update(cfg_scale=101),
        r"cfg_scale: found 101, expected at most 100",
    ),
    "seed that no generator takes": (
        lambda p: p.update(seed=2**63),
        r"seed: found 9223372036854775808, expected at most",
    ),
    "table named like a step": (
        lambda p: p["tables"].update(sample=p["tables"]["table2"]),
        r"tables\.sample: 'sample' is the name of a step of the workflow",
    ),
    "table named like a rule of a rule": (
        lambda p: p["tables"].update(evaluate_tool=p["tables"]["table2"]),
        r"tables\.evaluate_tool: ",
    ),
    "table named like a target": (
        lambda p: p["tables"].update(all=p["tables"]["table2"]),
        r"tables\.all: 'all' is the",
    ),
    "table named like a benchmark": (
        lambda p: p["tables"].update(bench_memory=p["tables"]["table2"]),
        r"tables\.bench_memory: ",
    ),
    "method that corrects itself": (
        lambda p: p["methods"]["ptqd"].update(base="ptqd"),
        r"methods\.ptqd\.base: ptqd is an entry of ptqd, ptqd corrects q-diffusion; name one",
    ),
    "method that corrects another one": (
        lambda p: p["methods"]["ptqd"].update(base="rtn"),
        r"methods\.ptqd\.base: rtn is an entry of rtn, ptqd corrects q-diffusion",
    ),
    "method that corrects nothing": (
        lambda p: p["methods"]["rtn"].update(base="q-dit"),
        r"methods\.rtn\.base: found 'q-dit', but rtn corrects no other method; remove it",
    ),
    "unknown base of a method": (
        lambda p: p["methods"]["ptqd"].update(base="q-difusion"),
        r"methods\.ptqd\.base: 'q-difusion' is not defined; .* did you mean 'q-diffusion'\?",
    ),
    "budget that no search can meet": (
        lambda p: p["allocation"].update(reference=72),
        r"allocation\.reference: found 72, expected at most 36, the largest of allocation\.sizes",
    ),
    "name that is a number": (lambda p: p.update(profile=12), "profile: found 12, expected a text; put it in quotes"),
    "section left empty": (lambda p: p.update(methods=None), "methods: found None, expected a mapping"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_profile_is_refused_in_one_line(profile: Profile, name: str) -> None:
    change, message = BAD[name]
    change(profile)
    with pytest.raises(ConfigError, match=message) as caught:
        validate(profile)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("guidance", float("nan"), r"\.guidance: found nan, expected a number"),
        ("guidance", [1.0, float("-inf")], r"\.guidance\[1\]: found -inf, expected a number"),
        ("day", date(2024, 1, 1), r"\.day: found datetime\.date\(2024, 1, 1\), expected a text, .* in quotes"),
        ("data", b"abc", r"\.data: found b'abc', expected a text, a number"),
        ("names", {"a", "b"}, r"\.names: found \{'a', 'b'\}, expected"),
        ("nested", {"of": [{1: 2}]}, r"\.nested\.of\[0\]: found the key 1, expected a text; put it in quotes"),
    ],
)
@pytest.mark.parametrize("where", ["arguments", "config"])
def test_what_json_does_not_have_is_refused_in_a_mapping_of_any_content(
    key: str, value: Any, message: str, where: str
) -> None:
    flux = load_profile("flux")
    setting, model = next(iter(flux["settings"])), next(iter(flux["models"]))
    content = {
        "arguments": flux["settings"][setting]["call"]["arguments"],
        "config": flux["models"][model]["pipeline"].setdefault("config", {}),
    }
    validate(flux)
    content[where][key] = value
    path_pattern = {"arguments": rf"settings\.{setting}\.call", "config": rf"models\.{model}\.pipeline"}[where]
    with pytest.raises(ConfigError, match=rf"{path_pattern}\.{where}{message}"):
        validate(flux)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"prompt_en": "a", "prompt_en": "b"}]', "\ufeff[]", "{"])
def test_a_suite_that_is_no_json_is_one_line(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "suite.json").write_text(text, encoding="utf-8")
    profile["video"]["suite"] = "data/suite.json"
    with pytest.raises(ConfigError, match=r"video\.suite: data/suite\.json cannot be read \(.*\); qdit video suite"):
        validate(profile)


def test_bases_in_a_circle_are_refused_also_of_methods_whose_file_is_broken(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job could be the first, and the order of the jobs would be looked for without end."""
    methods = profile["methods"]
    methods["rtn"]["base"], methods["g4w+p4a"]["base"], methods["ptqd"]["base"] = "g4w+p4a", "ptqd", "rtn"
    model = ProfileModel.model_validate(profile)
    monkeypatch.setattr("qdit.workflow.profile_references.method_index", lambda: MethodIndex({}, ()))
    with pytest.raises(
        ConfigError, match=r"rtn\.base: rtn corrects g4w\+p4a corrects ptqd corrects rtn; name an entry"
    ):
        check_corrected(model, "rtn")


def test_shipped_profile_is_valid_and_every_check_starts_from_it(profile: Profile) -> None:
    validate(profile)
    assert profile["profile"] == "mini"


def parts(model: type[Part] = Part) -> list[type[Part]]:
    """Every model of a profile."""
    return [subclass for below in model.__subclasses__() for subclass in [below, *parts(below)]]


def test_models_close_every_mapping_and_convert_nothing() -> None:
    assert len(parts()) > 15
    for model in parts():
        config = model.model_config
        assert config["extra"] == "forbid" and config["strict"] and config["frozen"] and not config["allow_inf_nan"]


def open_mappings(schema: Any) -> list[str]:
    """Titles of the sub-schemas that describe a mapping with any content."""
    if isinstance(schema, list):
        return [title for inner in schema for title in open_mappings(inner)]
    if not isinstance(schema, dict):
        return []
    here = (
        [schema.get("title", "")]
        if schema.get("type") == "object" and schema.get("additionalProperties") is True
        else []
    )
    return here + [title for inner in schema.values() for title in open_mappings(inner)]


def test_only_options_are_open_which_their_own_classes_check() -> None:
    """Arguments of a pipeline's call and the configuration of its transformer too: classes of diffusers check them."""
    assert sorted(open_mappings(ProfileModel.model_json_schema())) == ["Arguments", "Config", "Options", "Options"]


def test_runs_are_the_rows_of_the_tables(profile: Profile) -> None:
    for table, definition in profile["tables"].items():
        if definition["kind"] in ("qc", "integer"):
            continue
        keys = [key for block in definition["blocks"] for key in run_keys(profile, block)]
        rows = [Run(key.setting, key.form, key.label, key.bits, key.scope, key.mode) for key in keys]
        assert runs_of(profile, table) == list(dict.fromkeys(rows))
        for run, key in zip(rows, keys, strict=True):
            assert key.folder(Path()) == Path("runs", run.path)


def test_controls_wait_for_every_default_run_and_opt_in_tables_for_being_asked(profile: Profile) -> None:
    profile["tables"] = {name: profile["tables"][name] for name in ("table2", "table4")}
    before = all_runs(profile)
    add_table(profile, "qc")
    negative = Run(PLAIN, "natural", "rtn", "w2a2", "common")
    assert runs_of(profile, "more") == [*before, negative] == all_runs(profile)
    profile["tables"]["named"] = {"opt_in": True, **profile["tables"]["more"], "kind": "variants"}
    profile["tables"]["named"]["blocks"] = [profile["tables"]["more"]["blocks"][0] | {"bits": ["w3a3"], "base": "rtn"}]
    validate(profile)
    assert default_tables(profile) == ["table2", "table4", "more"]
    assert runs_of(profile, "more") == [*before, negative] == all_runs(profile)
    assert Run(PLAIN, "natural", "rtn", "w3a3", "common") in runs_of(profile, "named")
    assert "named (made only when it is named):" in listing(profile) and "\nmore:\n" in listing(profile)


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
    assert list(shards(profile, "digits-cfg1.0-s20", "natural")) == list(range(count))


@pytest.mark.parametrize(("share", "images"), [(0.25, 128), (0.26, 160), (0.001, 32), (1, 500)])
def test_a_share_of_the_images_is_whole_chunks_of_every_row_that_it_is_for(
    profile: Profile, share: float, images: int
) -> None:
    profile["sampling"] = {"images": 500, "chunk": 32, "chunks_per_shard": 2}
    setting = profile["settings"]["digits-cfg1.0-s20"]
    setting["share"] = {"salient": share}
    validate(profile)
    assert sampled(profile, "digits-cfg1.0-s20", "salient")["images"] == images
    assert sampled(profile, "digits-cfg1.0-s20", "natural")["images"] == 500
    assert len(shards(profile, "digits-cfg1.0-s20", "salient")) == -(-images // 64)
    commands = Commands(profile, Path("results"))
    salient = [run for run in all_runs(profile) if (run.setting, run.form) == ("digits-cfg1.0-s20", "salient")]
    assert salient
    for run in salient:
        assert f"--images {images} " in commands.sample(run, 0) and f"--images {images} " in commands.evaluate(run)


@pytest.mark.parametrize(
    ("setting", "share", "words"),
    [
        ("digits-cfg1.0-s20", {"smooth": 0.5}, "share: 'smooth' is not defined"),
        ("digits-cfg1.0-s20", {"natural": 0}, "share.natural"),
        ("digits-cfg1.0-s20", {"natural": 1.5}, "share.natural"),
        ("clips-cfg2.5-s15", {"natural": 0.5}, "share: found one, but only settings of images"),
    ],
)
def test_a_share_is_between_none_and_all_of_the_images_of_a_form(
    profile: Profile, setting: str, share: Profile, words: str
) -> None:
    profile["settings"][setting]["share"] = share
    with pytest.raises(ConfigError, match=re.escape(words)):
        validate(profile)
