"""The key `replicates`: which rows it repeats, their commands and seeds, their cost, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.core.seeds import Purpose, torch_generator
from qdit.core.streams import derive_seed, generator, replicate_draws, replicate_seed
from qdit.sampling.chunks import Shard, copy_equal_samples, make_chunks
from qdit.workflow.commands import Commands
from qdit.workflow.cost import Speed, jobs_of
from qdit.workflow.explain import calibrated, chain, explain_text
from qdit.workflow.profile import all_runs, load_profile, runs_of, search_of, validate
from qdit.workflow.protocol_version import protocol_version
from qdit.workflow.replicates import further_replicates, replicate_count, with_replicates
from qdit.workflow.run import rows_of

OVERLAY = "config/mini-replicates.yaml"
ROW = Run("digits-cfg1.0-s20", "natural", "q-dit", "w4a8", "common")
METHODS = ("rtn", "ptq4dm", "repq-vit", "tfmq-dm", "ptq4dit", "g4w+p4a", "q-dit")


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    return load_profile("mini", OVERLAY)


def test_the_overlay_repeats_the_deciding_rows_twice_more(profile: dict[str, Any]) -> None:
    more = set(with_replicates(profile, all_runs(profile))) - set(all_runs(profile))
    assert more == {replace(ROW, label=label, replicate=number) for label in METHODS for number in (1, 2)}
    assert rows_of(profile, ["table2"])["table2"] == with_replicates(profile, runs_of(profile, "table2"))
    assert replicate_count(profile, ROW) == 3 and replicate_count(load_profile("mini"), ROW) == 1
    for other in (replace(ROW, bits="w6a8"), replace(ROW, form="salient"), replace(ROW, mode="integer")):
        assert further_replicates(profile, other) == []
    assert profile["profile"] == "mini" and protocol_version(profile) != protocol_version(load_profile("mini"))


def test_replicate_0_has_the_commands_and_paths_of_a_row_without_replicates(profile: dict[str, Any]) -> None:
    plain, repeated = (Commands(of, Path("results/mini")) for of in (load_profile("mini"), profile))
    for run in (ROW, replace(ROW, label="ptq4dit")):
        for command in (Commands.evaluate, lambda c, r: c.quantize(r, {}), lambda c, r: c.sample(r, 0)):
            assert command(plain, run) == command(repeated, run)
    assert ROW.path.endswith("/q-dit/w4a8-common") and replace(ROW, replicate=2).path == f"{ROW.path}-r2"
    assert replace(ROW, mode="integer", replicate=1).path == f"{ROW.path}-r1-integer"


def test_a_replicate_has_its_own_calibration_search_and_draws_and_the_images_of_replicate_0(
    profile: dict[str, Any],
) -> None:
    commands, run = Commands(profile, Path("results/mini")), replace(ROW, replicate=1)
    seed = replicate_seed(profile["seed"], 1)
    file = commands.calibration_files(run, ["trajectory"])["trajectory"]
    assert file.name == "trajectory-r1.safetensors"
    assert f"--seed {seed}" in commands.calibrate(run.setting, run.form, "trajectory", 1)
    quantize = commands.quantize(run, {"trajectory": file})
    assert f"--seed {seed}" in quantize and "--replicate 1" in quantize and "racing/w4a8-r1.json" in quantize
    search = search_of(profile, run)
    assert search is not None and search.replicate == 1
    assert f"--search-seed {replicate_seed(0, 1)} " in commands.search(search)
    assert "trajectory-r1" in commands.search(search) and "--seed 0" in commands.search(search)
    sample = commands.sample(run, 0)
    assert f"--seed {profile['seed']}" in sample and f"--same-as {commands.samples(ROW)}" in sample
    assert "--replicate 1" in commands.evaluate(run) and f"--seed {profile['seed']}" in commands.evaluate(run)


def test_explain_shows_the_chain_of_each_replicate(profile: dict[str, Any], tmp_path: Path) -> None:
    links = list(chain(profile, "table2", ROW, tmp_path))
    numbers = [link.replicate for link in links]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2}
    metrics = {link.replicate: link for link in links if link.what == "metrics"}
    assert [metrics[number].path for number in (1, 2)] == [
        replace(ROW, replicate=number).folder(tmp_path) / "metrics.json" for number in (1, 2)
    ]
    assert "--replicate 2" in str(metrics[2].command) and "--replicate" not in str(metrics[0].command)
    assert [link.replicate for link in links if link.what == "table"] == [0], "it names the checkpoint of replicate 0"
    text, whole = explain_text(profile, "table2", "q-dit w4a8 digits-cfg1.0-s20 natural", tmp_path)
    assert not whole and text.count("metrics of replicate 1: ") == 1
    assert text.count("images of full precision") == 1, "files that replicates share are shown once"
    assert "--seed" in calibrated(Commands(profile, tmp_path), replace(ROW, replicate=1), "trajectory")
    assert f"{replicate_seed(0, 1)}" in calibrated(Commands(profile, tmp_path), replace(ROW, replicate=1), "trajectory")


def test_jobs_of_replicates_are_counted(profile: dict[str, Any]) -> None:
    speed = Speed(1e12, "given")
    plain, repeated = ({job.name for job in jobs_of(of, speed)} for of in (load_profile("mini"), profile))
    more = repeated - plain
    assert plain < repeated and sum(name.startswith(("quantize", "sample")) for name in more) == 28
    assert any(name.startswith("search") for name in more) and any(name.startswith("calibrate") for name in more)


def rows(**keys: Any) -> dict[str, Any]:
    return {"replicates": {"count": 3, "rows": [{"table": "table2", **keys}]}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two": (
        {"replicates": {"count": 2, "rows": [{"table": "table2"}]}},
        r"replicates.count: found 2, expected at least 3",
    ),
    "many": (
        {"replicates": {"count": 99, "rows": [{"table": "table2"}]}},
        r"replicates.count: found 99, expected at most",
    ),
    "no rows": ({"replicates": {"count": 3}}, "replicates: missing rows; add it"),
    "empty": ({"replicates": {"count": 3, "rows": []}}, r"replicates.rows: found \(\), expected a list of length"),
    "table": ({"replicates": {"count": 3, "rows": [{"table": "tabel2"}]}}, "'tabel2' is not defined.*did you mean"),
    "setting": (rows(setting="clips-cfg2.5-s15"), r"replicates.rows\[0\].setting: 'clips-cfg2.5-s15' is not defined"),
    "bits": (rows(bits=["w4a3"]), r"rows\[0\].bits: 'w4a3' is not defined; allowed are w6a8, w4a8"),
    "methods": (rows(methods=["rotation"]), r"rows\[0\].methods: 'rotation' is not defined"),
    "nothing": (rows(form="salient", bits=["w4a4"]), r"rows\[0\]: selects no quantized row of table2"),
    "full precision": (rows(methods=["fp"]), "selects no quantized row"),
    "key": (rows(bit=["w4a8"]), r"unknown key 'bit'; allowed are table.*did you mean 'bits'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_of_the_key_give_one_clear_line(case: str) -> None:
    values, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as problem:
        validate({**load_profile("mini"), **values})
    assert "\n" not in str(problem.value)


def test_streams_of_methods_change_with_the_replicate_and_those_of_images_do_not() -> None:
    def drawn(replicate: int) -> dict[Purpose, int]:
        with replicate_draws(replicate) as draws:
            seeds = {purpose: derive_seed(0, purpose, 7) for purpose in Purpose}
            assert draws.streams == {Purpose.VARIANT, Purpose.RECONSTRUCTION, Purpose.PROBE}
            return seeds

    plain = {purpose: derive_seed(0, purpose, 7) for purpose in Purpose}
    assert drawn(0) == plain, "replicate 0 draws what a row without replicates draws"
    changed = {purpose for purpose in Purpose if drawn(1)[purpose] != plain[purpose]}
    assert changed == {Purpose.VARIANT, Purpose.RECONSTRUCTION, Purpose.PROBE}
    assert all(drawn(1)[purpose] != drawn(2)[purpose] for purpose in changed)
    with replicate_draws(1) as draws:
        torch_generator(0, Purpose.VARIANT)
        generator(0, Purpose.LABEL, 3)
        assert draws.streams == {Purpose.VARIANT}
    assert replicate_seed(5, 0) == 5 != replicate_seed(5, 1) != replicate_seed(5, 2)
    assert derive_seed(0, Purpose.VARIANT, 7) == plain[Purpose.VARIANT], "nothing stays entered"


def test_samples_of_an_equal_checkpoint_are_copied_and_others_are_not(tmp_path: Path) -> None:
    shard, made = Shard(6, 4, 0, 2), []

    def make(samples: range, count: int) -> dict[str, np.ndarray]:
        made.append(samples)
        return {"images": np.arange(count)}

    def run(name: str, origin: dict[str, Any]) -> list[dict[str, str]]:
        chunks = make_chunks(shard, tmp_path / name, origin, ("images",), make)
        (tmp_path / name / "shard-000.json").write_text(json.dumps({**shard.listing(origin), "chunks": chunks}))
        return chunks

    same, other = {"checkpoint_sha256": "a"}, {"checkpoint_sha256": "b"}
    first = run("0", same)
    (tmp_path / "0" / "features-000.npz").write_bytes(b"features")
    assert copy_equal_samples(tmp_path / "0", tmp_path / "1", shard, same) and len(made) == 2
    assert run("1", same) == first and len(made) == 2, "copied chunks are kept"
    assert (tmp_path / "1" / "features-000.npz").read_bytes() == b"features"
    assert not copy_equal_samples(tmp_path / "0", tmp_path / "2", shard, other) and not (tmp_path / "2").exists()
    run("2", other)
    assert len(made) == 4


def test_a_method_that_draws_nothing_has_one_checkpoint_in_all_replicates(
    quantized: Callable[[str, dict[str, Any], int], Path],
) -> None:
    still = [quantized("rtn", {"group_size": 4, "activation": "dynamic"}, number) for number in (0, 1, 2)]
    contents = [{file.name: file.read_bytes() for file in sorted(folder.iterdir())} for folder in still]
    assert contents[0] == contents[1] == contents[2]
    drawn = [quantized("rotation", {"group_size": 4, "rounding": "nearest"}, number) for number in (0, 1)]
    records = [json.loads((folder / "config.json").read_text(encoding="utf-8"))["record"] for folder in drawn]
    assert "replicate" not in records[0] and records[1]["replicate"] == 1 and records[1]["streams"] == ["variant"]
    assert (drawn[0] / "model.safetensors").read_bytes() != (drawn[1] / "model.safetensors").read_bytes()


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[[str, dict[str, Any], int], Path]:
    """Quantizes the shipped digits model without calibration data, as a replicate."""
    from qdit.methods.quantize import quantize_weights_file

    def quantize(method: str, options: dict[str, Any], replicate: int) -> Path:
        folder, weights = tmp_path / f"{method}-{replicate}", Path("weights/dit-digits-natural.safetensors")
        with replicate_draws(replicate):
            quantize_weights_file(weights, folder, method, weight_bits=4, activation_bits=8, options=options)
        return folder

    return quantize
