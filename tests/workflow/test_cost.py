"""The estimate: closed forms, a brute-force schedule, counts that the workflow's own plan confirms elsewhere."""

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from qdit.core.errors import ConfigError
from qdit.core.files import write_json, write_text
from qdit.core.run import Run
from qdit.methods.quantize import options_of
from qdit.methods.registry import registry
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.stdit3_flops import forward_flops
from qdit.search.layers import LayerQuantizer
from qdit.search.sensitivity import hessian_scores, output_scores
from qdit.search.space import SearchSpace
from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import chosen_kind, rows_of, samples_of
from qdit.workflow.commands import Commands
from qdit.workflow.cost import (
    GPUS,
    Speed,
    card_speed,
    cost_text,
    disk_bytes,
    evaluations,
    jobs_of,
    measured_speed,
    quantize_evaluations,
    run_jobs,
    scoring_evaluations,
    search_evaluations,
    speed_of,
)
from qdit.workflow.cost_evaluating import evaluating_seconds
from qdit.workflow.cost_figure import chain, draw
from qdit.workflow.cost_memory import largest_memory
from qdit.workflow.cost_models import evaluation_flops, model_config, network_of
from qdit.workflow.cost_runs import calibration_kinds
from qdit.workflow.cost_schedule import Job, critical_paths, makespan, without_searches
from qdit.workflow.profile import Profile, load_profile
from tests.small_models import inputs, random_dit

SPEED = Speed(1e12, "a test")


@pytest.fixture(scope="module")
def paper() -> Profile:
    return load_profile("paper")


def test_operations_of_the_network() -> None:
    # DiT's paper prints 118.64 and 524.60 billion multiply-adds for DiT-XL/2 at 256 and 512.
    assert evaluation_flops(DiTConfig()) / 2e9 == pytest.approx(118.64, rel=1e-3)
    assert evaluation_flops(DiTConfig(input_size=64)) / 2e9 == pytest.approx(524.60, rel=1e-3)


def test_shapes_come_from_the_profile_or_the_weights(paper: Profile, repository: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    assert model_config(paper, "dit-xl-2-512") == DiTConfig(input_size=64)
    mini = load_profile("mini")
    assert model_config(mini, "dit-digits").hidden_size == 144
    assert isinstance(small := model_config(mini, "stdit3-moving-digits"), STDiT3Config) and small.depth == 2
    assert model_config(paper, "stdit3-opensora") == STDiT3Config()
    del paper["models"]["dit-xl-2-256"]["shape"]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"models\.dit-xl-2-256: its shape is not known"):
        model_config(paper, "dit-xl-2-256")
    paper["models"]["dit-xl-2-256"]["shape"] = {"input_size": 32}


def test_evaluations_of_every_step(paper: Profile) -> None:
    plain, guided = "dit-256-cfg1.0-s100", "dit-256-cfg1.5-s100"
    assert evaluations(paper, plain, 10_000) == 1_000_000
    assert evaluations(paper, guided, 10_000) == 2_000_000
    rtn, learned = (Run(guided, "natural", label, "w4a8", "common") for label in ("rtn", "ptq4dit"))
    assert quantize_evaluations(paper, rtn, ["trajectory"]) == 3 * 256
    assert quantize_evaluations(paper, learned, ["per-step-256"]) == 3 * 25_600 + 3 * 20_000 * 32
    assert quantize_evaluations(paper, learned, ["per-step"]) == 3 * 2 * 5120 + 3 * 20_000 * 32, "with null copies"
    search = profiles.search_of(paper, Run(guided, "natural", "allocated-evolution", "w4a8", "common"))
    assert search is not None and search.setting == "dit-256-cfg1.0-s50"
    assert search_evaluations(paper, search) == (500 + 3) * 500 * 50
    sizes = len(paper["allocation"]["sizes"])
    for label, passes in (("allocated-ilp", 28 + 1 + sizes), ("allocated-hessian", 1 + 8 + 1 + sizes)):
        search = profiles.search_of(paper, Run(guided, "natural", label, "w4a8", "common"))
        assert search is not None and search_evaluations(paper, search) == 256 * passes


@pytest.mark.parametrize("probes", [0, 2, 8])
def test_scores_of_layers_take_the_operations_that_torch_counts(probes: int) -> None:
    """A forward pass for each block, or one for all draws and no gradients of weights."""
    config = DiTConfig(input_size=8, in_channels=1, hidden_size=96, depth=3, num_heads=4, num_classes=10)
    model = random_dit(config)
    space, quantizer, batches = SearchSpace.of(model, (32, 16, 8), 16), LayerQuantizer(4, 8), [inputs(config, count=4)]
    with FlopCounterMode(display=False) as counter:
        if probes:
            hessian_scores(model, space, batches, quantizer=quantizer, probes=probes)
        else:
            output_scores(model, space, batches, quantizer=quantizer)
    passes = 1 + probes if probes else config.depth
    expected = scoring_evaluations(4, passes, 3) * evaluation_flops(config)
    assert 0.9 * expected < counter.get_total_flops() <= expected


def test_kinds_of_calibration_data_are_those_of_the_methods_under_their_options(paper: Profile) -> None:
    for label, entry in paper["methods"].items():
        method = registry()[entry["method"]]
        kinds = method.calibration_for(options_of(method, entry.get("options", {})))
        run = Run("dit-256-cfg1.5-s100", "natural", label, "w4a8", "common")
        at_each_step = entry.get("calibration", {})
        expected = [f"{kind}-{at_each_step[kind]}" if kind in at_each_step else kind for kind in kinds]
        assert calibration_kinds(paper, run) == expected, label


def test_a_method_that_corrects_a_checkpoint_does_not_learn_its_rounding_again(paper: Profile) -> None:
    run = Run("dit-256-cfg1.5-s100", "natural", "ptqd", "w4a8", "common")
    assert quantize_evaluations(paper, run, ["per-step"]) == 3 * 2 * 5120
    del paper["methods"]["ptqd"]["base"]
    assert quantize_evaluations(paper, run, ["per-step"]) == 3 * 2 * 5120 + 3 * 20_000 * 32


def test_jobs_are_those_of_the_plan(paper: Profile) -> None:
    jobs = jobs_of(paper, SPEED)
    counts = Counter(job.rule for job in jobs)
    runs = profiles.all_runs(paper)
    assert counts["quantize"] == len(runs)
    assert counts["sample"] == sum(len(profiles.shards(paper, run.setting, run.form)) for run in runs)
    assert counts["search"] == 6, "Algorithm 1 for two resolutions and two bits, ILP, Hessian-based"
    names = {job.name for job in jobs}
    assert len(names) == len(jobs)
    assert all(need in names for job in jobs for need in job.needs)
    total = sum(
        evaluations(paper, run.setting, profiles.sampled(paper, run.setting, run.form)["images"])
        * network_of(paper, run.setting).flops
        for run in runs
    )
    assert sum(job.seconds for job in jobs if job.rule == "sample") == pytest.approx(total / SPEED.flops)


def shortest(jobs: list[Job], gpus: int) -> float:
    """The least wall time over all orders in which jobs may be taken, by trying every one."""
    best = float("inf")
    for order in itertools.permutations(jobs):
        ends: dict[str, float] = {}
        free = [0.0] * gpus
        for job in order:
            if any(need not in ends for need in job.needs):
                break
            start = max([min(free), *(ends[need] for need in job.needs)])
            free[free.index(min(free))] = ends[job.name] = start + job.seconds
        else:
            best = min(best, max(ends.values()))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_makespan_lies_between_the_bounds(seed: int) -> None:
    draw = random.Random(seed)
    jobs: list[Job] = []
    for index in range(6):
        needs = tuple(job.name for job in jobs if draw.random() < 0.3)
        jobs.append(Job(str(index), "sample", float(draw.randint(1, 9)), needs))
    for gpus in (1, 2, 3):
        seconds = makespan(jobs, gpus).seconds
        least = shortest(jobs, gpus)
        assert least <= seconds <= (2 - 1 / gpus) * least  # Graham's bound of list scheduling
    assert makespan(jobs, 1).seconds == pytest.approx(sum(job.seconds for job in jobs))
    assert makespan(jobs, 6).seconds == pytest.approx(max(critical_paths(jobs).values()))


def test_makespan_of_known_schedules() -> None:
    chain = [Job("a", "search", 3.0), Job("b", "quantize", 2.0, ("a",)), Job("c", "sample", 1.0, ("b",))]
    assert makespan(chain, 8).seconds == 6.0
    assert makespan(chain, 8).efficiency == pytest.approx(6 / 48)
    wide = [Job(str(index), "sample", 1.0) for index in range(10)]
    assert [makespan(wide, gpus).seconds for gpus in (1, 3, 10, 20)] == [10.0, 4.0, 1.0, 1.0]
    assert makespan([], 4).seconds == 0.0
    assert without_searches([*chain, *wide]) == wide


def test_speed_is_given_measured_or_assumed(paper: Profile, repository: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    mini = load_profile("mini")
    assert speed_of(mini, tmp_path, 3.0) == Speed(3e12, "given")
    assert speed_of(mini, tmp_path, None).source.startswith("assumed")
    run = profiles.all_runs(mini)[0]
    write_json(tmp_path / "runs" / run.path / "logs" / "sample-000.json", {"seconds": 8.0})
    measured = measured_speed(mini, tmp_path)
    config = model_config(mini, mini["settings"][run.setting]["model"])
    expected = evaluations(mini, run.setting, mini["sampling"]["images"]) * evaluation_flops(config) / 8.0
    assert measured is not None and measured.flops == pytest.approx(expected)
    assert speed_of(mini, tmp_path, None) == measured


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"seconds": "x"}', '{"seconds": null}', '{"seconds": NaN}', '{"seconds": -1}']
)
def test_a_damaged_file_of_times_is_left_out_of_the_speed(tmp_path: Path, text: str) -> None:
    mini = load_profile("mini")
    first, second = profiles.runs_of(mini, "table2")[:2]
    logs = [tmp_path / "runs" / run.path / "logs" for run in (first, second)]
    write_json(logs[0] / "sample-000.json", {"seconds": 8.0})
    alone = measured_speed(mini, tmp_path)
    for name in ("sample-000.json", "quantize.json", "sample-000.old.json"):
        write_text(logs[1] / name, text)
    assert measured_speed(mini, tmp_path) == alone is not None
    (logs[0] / "sample-000.json").unlink()
    assert measured_speed(mini, tmp_path) is None


def test_disk_and_memory(paper: Profile) -> None:
    disk = disk_bytes(paper)
    runs = [run for run in profiles.all_runs(paper) if profiles.family_at(paper, run.setting).samples == "images"]
    numbers = [5_000 if run.setting.startswith("dit-512-cfg1.5-ddpm") else 10_000 for run in runs]
    sizes = [3 * (512 if "512" in run.setting else 256) ** 2 for run in runs]
    assert disk["images"] == sum(number * size for number, size in zip(numbers, sizes, strict=True))
    assert disk["features"] == sum(numbers) * 4 * 5079
    assert disk["clips"] == disk["clips as MP4"] == 3 * 4720 * 3 * 51 * 240 * 424
    memory = largest_memory(paper)
    assert memory["import_weights"].host == pytest.approx(2 * 4 * 1_207_640_000, rel=1e-3), "STDiT3 is the largest"
    images = {**paper, "tables": {"table1": paper["tables"]["table1"]}}
    weights, memory = 4 * 676_014_368, largest_memory(images)
    assert memory["import_weights"].host == pytest.approx(2 * weights, rel=1e-3)
    assert all(size.gpu > weights for rule, size in memory.items() if rule != "import_weights")


CLIPS = "opensora-51x240x426-cfg7.0-s30"


def test_clips_of_the_full_size_are_counted_with_their_latents_and_both_branches(paper: Profile) -> None:
    network = network_of(paper, CLIPS)
    assert network.tokens == 6075 and network.cells == 4 * 15 * 30 * 53 and network.pixels == 3 * 51 * 240 * 424
    assert network.flops == forward_flops(STDiT3Config(), (15, 30, 53), 300)
    # Of each token at least its multiply-adds with the 1.2 billion weights of the blocks.
    assert network.flops > 2 * 1.1e9 * 6075
    assert evaluations(paper, CLIPS, 4720) == 4720 * 30 * 2
    assert samples_of(paper, CLIPS, "trajectory") == paper["video"]["calibration"]["trajectory"]
    jobs = [job for job in jobs_of(paper, SPEED) if CLIPS in job.name]
    assert Counter(job.rule for job in jobs) == {"calibrate": 2, "quantize": 3, "sample": 3 * 118}
    sampled = sum(job.seconds for job in jobs if job.rule == "sample")
    assert sampled == pytest.approx(3 * 4720 * 60 * network.flops / SPEED.flops)


def test_vbenchs_hours_are_not_guessed(paper: Profile) -> None:
    text = cost_text(paper, SPEED)
    assert "48 jobs score 14,160 clips besides; their hours are unknown" in text
    assert "VBench" not in cost_text({**paper, "tables": {"table1": paper["tables"]["table1"]}}, SPEED)


def test_evaluating_a_row_takes_minutes_and_is_in_the_text(paper: Profile) -> None:
    assert evaluating_seconds(10_000, 200) < 120, "the goal is two minutes"
    by_roots = 200 * (2 * 2.0 + 4.0)  # at least, on one core: two distances to references and FD-FP
    assert evaluating_seconds(10_000, 200) < by_roots / 5
    assert evaluating_seconds(10_000, 400) > 1.5 * evaluating_seconds(10_000, 200)
    assert evaluating_seconds(512, 200, pool=64, spatial=112) < 1
    runs = [run for run in profiles.all_runs(paper) if run.setting != CLIPS]
    assert re.search(rf"evaluate +{len(runs)} jobs +\d+\.\d core-hours", cost_text(paper, SPEED))


@pytest.mark.parametrize(
    ("setting", "label", "bits", "learned"),
    [
        ("dit-256-cfg1.5-s100", "ptq4dit", "w4a8", 20_000 * 32),
        ("dit-512-cfg1.5-s50", "ptq4dit", "w4a8", 20_000 * 16),  # the release's batches
        ("dit-512-cfg1.5-s50", "tfmq-dm", "w4a8", 20_000 * 32),
        ("dit-256-cfg1.5-s100", "tfmq-dm", "w16a8", 0),  # it learns rounding only
        ("dit-256-cfg1.5-s100", "ptq4dit", "w16a8", 20_000 * 32),  # scales of activations
        ("dit-256-cfg1.5-s100", "ptq4dit", "w16a16", 0),
        ("dit-256-cfg1.5-s100", "g4w+p4a", "w4a8", 0),
    ],
)
def test_rows_that_are_learned_follow_size_and_bits(
    paper: Profile, setting: str, label: str, bits: str, learned: int
) -> None:
    run = Run(setting, "natural", label, bits, "common")
    kinds = calibration_kinds(paper, run)
    passes = 3 * sum(rows_of(paper, setting, kind) for kind in kinds)
    assert quantize_evaluations(paper, run, kinds) == passes + 3 * learned


def test_tables_1_to_6_take_at_most_150_hours_of_an_h100(paper: Profile) -> None:
    """A goal; all printed rows and the searches are there. docs/paper-profile.md says what Table 2 lacks to its own."""
    speed, jobs = card_speed("H100"), dict[str, Job]()
    for number in range(1, 7):
        for run in profiles.runs_of(paper, f"table{number}"):
            jobs |= {job.name: job for job in run_jobs(paper, run, speed)}
    assert sum(job.seconds for job in jobs.values()) < 150 * 3600
    assert Counter(job.rule for job in jobs.values())["search"] == 6


def test_the_text_says_what_it_assumes(paper: Profile) -> None:
    text = cost_text(paper, Speed(50e12, "given"), GPUS)
    assert "50 TFLOP/s per GPU (given)" in text
    for count in GPUS:
        assert f"{count:>4} GPUs:" in text
    assert "without searches" in text
    assert json.dumps(text)  # plain text, no numbers that are not finite
    assert "nan" not in text and "inf " not in text


def test_the_figure_names_the_longest_chain(paper: Profile, tmp_path: Path) -> None:
    first, again = tmp_path / "first.svg", tmp_path / "again.svg"
    draw(paper, Speed(50e12, "given"), first)
    draw(paper, Speed(50e12, "given"), again)
    text = first.read_text(encoding="utf-8")
    assert text == again.read_text(encoding="utf-8")
    assert "longest chain" in text
    assert "paper profile" in text
    jobs = [Job("a", "search", 3600.0), Job("b", "sample", 7200.0, ("a",)), Job("c", "sample", 360.0)]
    assert chain(jobs) == "search 1.0 h, sample 2.0 h"


@pytest.mark.parametrize(
    ("setting", "label", "kind", "samples", "rows"),
    [
        ("dit-256-cfg1.5-ddpm-s250", "q-diffusion", "per-step", 250 * 128, 250 * 256),
        ("dit-256-cfg1.5-ddpm-s250", "ptqd", "per-step", 250 * 128, 250 * 256),
        ("dit-256-cfg1.5-ddpm-s250", "ptqd", "regression", 1024, 250 * 1024),
        ("dit-256-cfg1.0-s100", "tfmq-dm", "per-step", 100 * 256, 100 * 256),
        ("dit-256-cfg1.5-s100", "tfmq-dm", "per-step", 100 * 128, 100 * 256),
        ("dit-512-cfg1.5-ddpm-s50", "ptq4dit", "per-step", 50 * 64, 50 * 128),
        ("dit-256-cfg1.5-ddpm-s250", "tq-dit", "per-step", 5120, 2 * 5120),
        (CLIPS, "q-diffusion", "per-step", 240, 480),
    ],
)
def test_each_method_has_the_samples_of_its_program(
    paper: Profile, setting: str, label: str, kind: str, samples: int, rows: int
) -> None:
    """20 steps of 256 rows give Q-Diffusion, PTQD and TFMQ-DM the 5,120 rows of their releases."""
    chosen = chosen_kind(paper, setting, label, kind)
    assert (samples_of(paper, setting, chosen), rows_of(paper, setting, chosen)) == (samples, rows)
    words = Commands(paper, Path("results")).calibrate(setting, "natural", chosen).split()
    assert words[words.index("--kind") + 1] == kind and words[words.index("--samples") + 1] == str(samples)
    assert words[2].endswith(f"{chosen}.safetensors")
