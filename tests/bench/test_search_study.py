"""The study: who was best when, the bound, the words, and that a stopped study goes on to the same numbers."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdit.bench.search_study import Study, bootstrap, comparison, incumbents, run_study
from qdit.bench.search_study_page import cheap_verdict, curve, page_text, verdict, write_page
from qdit.cli.search import EVOLUTION, RACING, RANDOM
from qdit.core.errors import ConfigError
from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file
from qdit.sampling.protocol import Protocol
from qdit.search.job import SearchJob

A, B, C = (4, 4), (4, 8), (8, 8)


def test_only_full_measurements_are_best_and_prefixes_count_once():
    entries = {(A, 4): 0.1, (B, 4): 9.0, (A, 8): 3.0, (C, 8): 5.0, (B, 8): 2.0}
    assert incumbents(entries, 8) == [
        {"images_sampled": 12, "genome": [4, 4], "fitness": 3.0},
        {"images_sampled": 24, "genome": [4, 8], "fitness": 2.0},
    ]
    assert incumbents({(A, 8): 3.0, (A, 4): 1.0, (B, 8): 2.0}, 8)[-1]["images_sampled"] == 16


def test_bootstrap_of_equal_differences_is_exact_and_covers():
    assert bootstrap([0.25] * 5) == {
        "differences": [0.25] * 5,
        "mean": 0.25,
        "upper_95": 0.25,
        "interval_95": [0.25, 0.25],
    }
    draws = np.random.default_rng(0).normal(0.1, 0.2, 400)
    found = bootstrap(draws)
    error = 0.2 / 20
    assert found["mean"] == pytest.approx(draws.mean())
    assert found["upper_95"] == pytest.approx(draws.mean() + 1.645 * error, abs=0.2 * error)
    assert found["interval_95"] == pytest.approx(
        [draws.mean() - 1.96 * error, draws.mean() + 1.96 * error], abs=0.2 * error
    )
    assert bootstrap(draws) == found


def one(kind, seed, held_out, images):
    step = {"images_sampled": images, "genome": [4], "fitness": 1.0, "held_out": held_out}
    return {"kind": kind, "seed": seed, "held_out": held_out, "images_sampled": images, "incumbents": [step]}


def test_differences_are_relative_and_paired_by_seed():
    found = [one("evolution", 0, 1.0, 100), one("random", 0, 1.1, 100), one("racing", 0, 0.9, 20)]
    found += [one("evolution", 1, 2.0, 100), one("random", 1, 2.2, 100), one("racing", 1, 2.0, 10)]
    result = comparison(found, ("evolution", "racing", "random"))
    assert result["random"]["against_evolution"]["differences"] == pytest.approx([0.1, 0.1])
    assert result["racing"]["against_evolution"]["differences"] == pytest.approx([-0.1, 0.0])
    assert result["racing"]["images_share"] == pytest.approx(0.15)
    assert result["evolution"]["held_out_mean"] == 1.5
    assert result["evolution"]["held_out_sd"] == pytest.approx(2**-0.5)
    assert "against_evolution" not in result["evolution"]


def written(random, racing=(-0.1, 0.01)) -> dict:
    """A made-up study: mean difference and interval of random search, mean and upper bound of racing."""
    mean, low, high = random
    found = [
        one(kind, seed, 1 + seed / 10, images)
        for seed in (0, 1)
        for kind, images in (("evolution", 640), ("racing", 100), ("random", 640))
    ]
    result = comparison(found, ("evolution", "racing", "random"))
    result["random"]["against_evolution"] |= {"mean": mean, "interval_95": [low, high]}
    result["racing"]["against_evolution"] |= {"mean": racing[0], "upper_95": racing[1]}
    plan = {
        "weights": {"file": "w.safetensors"},
        "protocol": {"steps": 20, "sampler": "ddim", "cfg_scale": 1.0},
        "bits": "w4a8",
        "sizes": [4, 16],
        "reference": 16,
        "metric": "fd_fp",
        "images": 64,
        "held_out_images": 2048,
        "curve_images": 512,
        "seeds": 2,
        "score_images": {"evolution": 0.0, "racing": 0.0, "random": 0.0},
        "options": {"evolution": {"population": 4}, "racing": {"rungs": [16, 64]}, "random": {"evaluations": 9}},
    }
    return {
        "command": "qdit search-study x",
        "commit": "abc",
        "machine": {"processor": "Abacus", "cores": 2},
        "seconds": 120,
        "workers": 2,
        "plan": plan,
        "uniform": {"held_out": 1.25, "held_out_curve": 1.3},
        "searches": found,
        "comparison": result,
    }


@pytest.mark.parametrize(
    ("random", "words"),
    [
        ((-0.03, -0.05, -0.01), "Random search is better than Algorithm 1"),
        ((0.01, -0.02, 0.03), "Random search is as good as Algorithm 1"),
        ((0.05, 0.01, 0.08), "Random search is not as good as Algorithm 1"),
    ],
)
def test_the_first_sentence_is_about_random_search(random, words):
    sentence = verdict(written(random))
    assert sentence.startswith(words) and "2 seeds" in sentence


def test_the_page_opens_with_the_verdict_and_is_the_same_each_time(tmp_path):
    content, page = written((0.01, -0.02, 0.03)), tmp_path / "docs" / "search-study.md"
    write_page(content, page, page.parent / "images" / "search-study.svg")
    lines = page.read_text().splitlines()
    assert next(line for line in lines if line.startswith("- ")) == f"- {verdict(content)}"
    assert "![Held-out metric against images sampled](images/search-study.svg)" in lines
    drawing = (page.parent / "images" / "search-study.svg").read_bytes()
    write_page(content, page, page.parent / "images" / "search-study.svg")
    assert (page.parent / "images" / "search-study.svg").read_bytes() == drawing
    assert b"<svg" in drawing


def test_racing_is_held_to_what_was_asked_beforehand():
    good, bad = written((0, 0, 0), (-0.1, 0.019)), written((0, 0, 0), (0.0, 0.02))
    assert cheap_verdict(good, "racing").startswith("Racing meets the limit. It sampled 15.6% of the images of Algo")
    assert cheap_verdict(bad, "racing").startswith("Racing misses the limit.")
    text = page_text(written((0, 0, 0)), Path("f"))
    assert "| racing | 100 | 1.05000 | 0.07071 | −16.0 % | −10.0 % | +1.0 % |" in text
    assert "| size 16 in all layers | 0 | 1.25000 |" in text


def test_a_curve_is_the_best_so_far():
    steps = [{"images_sampled": 10, "held_out": 3.0}, {"images_sampled": 30, "held_out": 2.0}]
    found = curve(steps, np.array([5, 10, 29, 30, 99]))
    assert np.isnan(found[0]) and list(found[1:]) == [3.0, 3.0, 2.0, 2.0]


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory) -> Study:
    weights = repository / "weights"
    job = SearchJob(
        weights=weights / "dit-digits-natural.safetensors",
        sizes=(4, 16, 36),
        reference=16,
        weight_bits=4,
        activation_bits=8,
        protocol=Protocol(steps=1),
        images=4,
        chunk=2,
        extractor="digit-classifier",
        extractor_weights=weights / "digit-classifier.safetensors",
    )
    few = {"population": 3, "parents": 2, "crossover": 1, "mutation": 1, "iterations": 2}
    options = {"evolution": few, "racing": few | {"rungs": [2, 4], "keep": 0.5}, "random": {"evaluations": 6}}
    options["response"] = {"genomes": [3], "finalists": [1], "pool": 2, "probes": 1}
    trajectory = tmp_path_factory.mktemp("calibration") / "trajectory.safetensors"
    calibrate_weights_file(CalibrateJob(job.weights, trajectory, "trajectory", job.protocol, 4))
    return Study(job, options, seeds=2, held_out=8, curve=4, calibration=trajectory)


def without_time(content):
    found = copy.deepcopy(content)
    return json.loads(json.dumps({key: value for key, value in found.items() if key != "seconds"}))


@pytest.mark.slow  # the searches that it calls are stopped and continued in tests/search/
def test_a_stopped_study_goes_on_to_the_same_numbers(study, tmp_path, monkeypatch):
    given = {"workers": 1, "command": "qdit search-study x", "show": False}
    whole = run_study(study, tmp_path / "whole", tmp_path / "whole.json", **given)
    assert [(one["kind"], one["seed"]) for one in whole["searches"]] == [
        (kind, seed) for seed in (0, 1) for kind in ("evolution", "response", "racing", "random")
    ]
    for one in whole["searches"]:
        assert one["held_out"] > 0 and one["incumbents"][-1]["genome"] == one["genome"]
        assert all(step["held_out"] > 0 for step in one["incumbents"])
    shares = whole["comparison"]
    assert shares["racing"]["images_sampled_mean"] < shares["evolution"]["images_sampled_mean"] == 24
    assert shares["random"]["images_sampled_mean"] == 24
    assert whole["commit"] and whole["machine"] and whole["plan"]["options"]["racing"]["rungs"] == (2, 4)
    assert write_page(whole, tmp_path / "page.md", tmp_path / "page.svg") is None

    sample, calls = "qdit.search.fitness.ImageFitness._sample", []
    from qdit.search.fitness import ImageFitness

    original = ImageFitness._sample

    def tiring(self, model, chunk):
        calls.append(chunk)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return original(self, model, chunk)

    monkeypatch.setattr(sample, tiring)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "stopped", tmp_path / "stopped.json", **given)
    assert not (tmp_path / "stopped.json").exists()
    monkeypatch.setattr(sample, original)
    again = run_study(study, tmp_path / "stopped", tmp_path / "stopped.json", **given)
    assert without_time(again) == without_time(whole)
    monkeypatch.setattr(sample, lambda *_: pytest.fail("sampled again"))
    assert without_time(run_study(study, tmp_path / "whole", tmp_path / "third.json", **given)) == without_time(whole)


@pytest.mark.parametrize(
    ("given", "message"), [({"seeds": 0}, "seeds 0"), ({"curve": 2}, "must not descend"), ({"held_out": 3}, "descend")]
)
def test_studies_that_make_no_sense(study, given, message):
    with pytest.raises(ConfigError, match=message):
        Study(**{"job": study.job, "options": study.options, "curve": 4, "held_out": 8, **given})


def test_by_default_the_cheap_searches_take_less_than_a_fifth_of_the_images(study):
    job = replace(study.job, images=64, chunk=16)
    options = {"evolution": EVOLUTION, "racing": RACING, "response": "{}", "random": RANDOM}
    default = Study(job, {kind: json.loads(text) for kind, text in options.items()})
    most = {kind: default.search(kind, 0).most_images for kind in options}
    assert most["evolution"] == most["random"] == 112 * 64
    assert max(most["racing"], most["response"]) <= most["evolution"] / 5
