"""A search from files to files: every kind, its noise, what it leaves, and kill -9 in the middle."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.core.files import read_json
from qdit.methods.quantize import quantize_model
from qdit.quant.allocation import read_allocation
from qdit.quant.sites import prepare_inference
from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file
from qdit.sampling.protocol import Protocol
from qdit.search.job import SearchJob
from qdit.search.layers import SwappableModel
from qdit.search.options import KINDS, parse_search_options
from qdit.search.run import Search, run_search
from qdit.search.space import SearchSpace
from qdit.search.workers import Workers
from tests.preloaded import python
from tests.small_models import calibration_set, inputs, random_dit

PROTOCOL = Protocol(steps=2)
FEW = {"population": 4, "parents": 2, "crossover": 2, "mutation": 2, "iterations": 2}
OPTIONS = {
    "evolution": FEW,
    "racing": FEW | {"rungs": [4, 8], "keep": 0.5},
    "response": {"genomes": [4, 2], "finalists": [1, 1], "pool": 3, "probes": 1},
    "random": {"evaluations": 4},
}


@pytest.fixture(scope="module")
def job(repository) -> SearchJob:
    weights = repository / "weights"
    return SearchJob(
        weights=weights / "dit-digits-natural.safetensors",
        sizes=(4, 16, 36),
        reference=16,
        weight_bits=4,
        activation_bits=8,
        protocol=PROTOCOL,
        images=8,
        chunk=4,
        extractor="digit-classifier",
        extractor_weights=weights / "digit-classifier.safetensors",
    )


@pytest.fixture(scope="module")
def trajectory(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "trajectory.safetensors"
    calibrate_weights_file(CalibrateJob(job.weights, path, "trajectory", PROTOCOL, 4))
    return path


def search_of(kind, job, **given) -> Search:
    options = parse_search_options(kind, OPTIONS.get(kind, {}) | given.pop("options", {}))
    return Search(kind, job, options, **given)


@pytest.fixture(scope="module")
def made(job, trajectory, tmp_path_factory):
    """Kind → (file, content), each search run once."""
    folder = tmp_path_factory.mktemp("searches")
    found = {}
    for kind in KINDS:
        calibration = trajectory if kind in ("ilp", "hessian", "response") else None
        out = folder / f"{kind}.json"
        run_search(search_of(kind, job, calibration=calibration, fresh=2), out, show=False)
        found[kind] = (out, read_json(out))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_budget_and_can_be_read(made, kind):
    path, content = made[kind]
    groups = read_allocation(path)
    assert len(groups) == 28 and set(groups.values()) <= {4, 16, 36}
    assert content["budget"] <= content["budget_limit"]
    assert sum(12 / size for size in groups.values()) > 0
    assert content["identity"]["method"] == kind
    assert read_json(path.with_suffix(".times.json"))["seconds"] >= 0
    assert "seconds" not in path.read_text()


def test_images_are_counted(made):
    images = {kind: content["images_sampled"] for kind, (_, content) in made.items()}
    assert images["evolution"] == 8 * 8 and images["random"] == 4 * 8
    assert 0 < images["racing"] < images["evolution"]
    assert images["response"] <= 6 * 4 + 2 * 8
    assert images["ilp"] == images["hessian"] == images["uniform"] == images["chance"] == 0
    assert set(made["uniform"][1]["groups"].values()) == {16}


def test_the_best_is_measured_again_on_other_noise(made, job):
    _, content = made["evolution"]
    fresh = content["fresh"]
    assert (
        dict(zip([name for name, *_ in content["space"]["layers"]], fresh[0]["genome"], strict=True))
        == content["groups"]
    )
    assert fresh[0]["fitness"] == content["fitness"] == min(one["fitness"] for one in fresh)
    assert any(set(one["genome"]) == {16} for one in fresh)
    assert 2 <= len(fresh) <= 3
    assert all(one["fresh"] > 0 and one["fresh"] != one["fitness"] for one in fresh)
    own = job.fitness()
    search = search_of("evolution", job)
    for one in fresh:
        assert own.on_noise(search.noise)(tuple(one["genome"])) == one["fitness"]
        assert own.on_noise(search.fresh_noise)(tuple(one["genome"])) == one["fresh"]


def test_no_search_sees_the_noise_of_a_run(job):
    seeds = [job.protocol.seed]
    for number in range(3):
        search = search_of("random", job, seed=number)
        seeds += [search.noise, search.fresh_noise]
    assert len(set(seeds)) == len(seeds)
    other = search_of("random", replace(job, protocol=replace(PROTOCOL, seed=1)))
    assert other.noise not in seeds


@pytest.mark.parametrize(
    "kind", (pytest.param("racing", marks=pytest.mark.slow), pytest.param("response", marks=pytest.mark.ci))
)  # test_workers.py races
def test_two_workers_write_the_same_bytes(made, job, trajectory, tmp_path, kind):
    out = tmp_path / f"{kind}.json"
    calibration = trajectory if kind == "response" else None
    run_search(search_of(kind, job, calibration=calibration, fresh=2), out, workers=2, show=False)
    assert out.read_bytes() == made[kind][0].read_bytes()


def test_a_finished_search_measures_nothing_again(made, job, monkeypatch):
    out, content = made["evolution"]
    monkeypatch.setattr("qdit.search.fitness.ImageFitness._sample", lambda *_: pytest.fail("sampled again"))
    assert run_search(search_of("evolution", job, fresh=2), out, show=False) == content


def test_q_dit_with_the_allocation_is_the_model_that_was_measured(made):
    model = random_dit()
    names = [name for name in made["racing"][1]["groups"] if name.startswith(("blocks.0.", "blocks.1."))]
    sizes = {name: (4, 8, 12, 24)[place % 4] for place, name in enumerate(names)}
    quantized = quantize_model(
        model,
        "q-dit",
        weight_bits=4,
        activation_bits=8,
        calibration={"trajectory": calibration_set("trajectory")},
        options={"allocation": sizes, "rounding": "nearest"},
    )
    space = SearchSpace.of(model, (4, 8, 12, 24), 8)
    job = SearchJob.__new__(SearchJob)
    object.__setattr__(job, "weight_bits", 4)
    object.__setattr__(job, "activation_bits", 8)
    object.__setattr__(job, "symmetric", False)
    swapped = SwappableModel(model, space, job.quantizer()).use(space.genome(sizes))
    with torch.inference_mode():
        assert torch.equal(prepare_inference(quantized.model)(*inputs()), swapped(*inputs()))


def test_a_race_may_be_ordered_by_scores(job, trajectory, tmp_path):
    search = search_of("racing", job, options={"surrogate": "ilp", "surrogate_keep": 0.5}, calibration=trajectory)
    content = run_search(search, tmp_path / "a.json", show=False)
    (chosen,) = [one for one in content["history"] if one["origin"] == "surrogate"]
    ilp = run_search(search_of("ilp", job, calibration=trajectory), tmp_path / "ilp.json", show=False)
    assert chosen["genome"] == list(ilp["groups"].values()) and chosen["images"] == 8
    assert content["fitness"] <= chosen["fitness"]
    assert sum(one["images"] == 0 for one in content["history"]) >= 2
    assert content["images_sampled"] <= search.most_images
    assert content["identity"]["calibration_sha256"]


def test_as_released_is_another_search(job, tmp_path):
    released = replace(job, constraint="mean_group", symmetric=True)
    content = run_search(search_of("evolution", released, options={"reseed": True}), tmp_path / "a.json", show=False)
    sizes = list(content["groups"].values())
    assert sum(sizes) / len(sizes) >= 16
    assert content["constraint"] == "mean_group"
    assert content["identity"]["fitness"]["quantizer"]["symmetric"] and content["identity"]["options"]["reseed"]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("ilp", {}, r"ilp: needs calibration data of kind trajectory.*qdit calibrate"),
        ("hessian", {}, "hessian: needs calibration data"),
        ("racing", {"options": {"surrogate": "hessian"}}, "racing: needs calibration data"),
        ("racing", {"options": {"rungs": [4, 16]}}, "last one must be all 8 images"),
        ("random", {"fresh": -1}, "fresh -1"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_loaded(job, tmp_path, kind, given, message):
    with pytest.raises(ConfigError, match=message):
        run_search(search_of(kind, replace(job, weights=tmp_path / "none"), **given), tmp_path / "a.json", show=False)
    with pytest.raises(ConfigError, match="workers 0"):
        run_search(search_of("uniform", job), tmp_path / "a.json", workers=0, show=False)


def test_workers_measure_on_several_noises(job):
    own, genome = job.fitness(), (16,) * 28
    with Workers(job.noises, 1) as pool:
        for seed in (3, 4, 3):
            assert pool.on_prefix((seed, genome), 4) == own.on_noise(seed).on_prefix(genome, 4)
        pool.forget()


@pytest.mark.ci
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(made, job, tmp_path):
    out = tmp_path / "evolution.json"
    command = [sys.executable, "-m", "qdit", "search", str(job.weights), str(out), "--kind", "evolution"]
    command += ["--options", json.dumps(FEW), "--sizes", "4,16,36", "--images", "8", "--chunk", "4", "--steps", "2"]
    command += ["--extractor-weights", str(job.extractor_weights), "--fresh", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        until = time.monotonic() + 120
        while time.monotonic() < until and running.poll() is None:
            lines = [len(path.read_bytes().splitlines()) for path in tmp_path.glob("evolution.*.jsonl")]
            if lines and lines[0] >= 3:  # the header and two genomes
                break
            time.sleep(0.002)
        assert running.poll() is None, "ended before it could be killed"
        running.kill()
    (journal,) = tmp_path.glob("evolution.*.jsonl")
    kept = journal.read_bytes()
    whole = kept[: kept.rfind(b"\n") + 1]
    assert 3 <= len(whole.splitlines()) < 9 and not out.exists()
    done = python(command[1:])
    assert (
        done.returncode == 0
        and f"{out}: harmonic mean group size " in done.stdout
        and "64 images sampled" in done.stdout
    )
    assert "best=" in done.stderr
    undisturbed = made["evolution"][0]
    assert out.read_bytes() == undisturbed.read_bytes()
    assert journal.read_bytes().startswith(whole)
    assert journal.read_bytes() == next(undisturbed.parent.glob(journal.name)).read_bytes()


@pytest.mark.parametrize("changes", [{"steps": PROTOCOL.steps + 1}, {"cfg_scale": 2.5}])
def test_calibration_data_of_another_protocol_are_refused_before_anything_is_loaded(job, trajectory, tmp_path, changes):
    other = replace(job, weights=tmp_path / "none", protocol=replace(PROTOCOL, **changes))
    (name, value), *_ = changes.items()
    with pytest.raises(ConfigError, match=rf"was made with {name} .* says {value}.*calibrate with these"):
        run_search(search_of("ilp", other, calibration=trajectory), tmp_path / "a.json", show=False)
    assert not (tmp_path / "a.json").exists()
