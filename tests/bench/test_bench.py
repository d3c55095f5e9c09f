"""Benchmarks: ratios, verdicts and records are right; every command runs at its tiny size. No time is asserted."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qdit.bench import kernels, peers, peers_llama, peers_onednn, rivals, sampling, small
from qdit.bench.conformance import Missing, Peer, conforming, random_codes, tensor
from qdit.bench.goals import Goal, Judged, shortfall
from qdit.bench.layers import operands
from qdit.bench.memory import weight_bytes
from qdit.bench.modes import EAGER, FULL, INTEGER, SIMULATED, EagerLinear, in_mode, quantized, random_model
from qdit.bench.page import curves, goals_of, text_of, write_into, write_page
from qdit.bench.record import read_record, write_record
from qdit.bench.timing import Ratio, Timing, interleaved
from qdit.cli import main as cli
from qdit.core.errors import ConfigError, DataError
from qdit.quant.activation import DynamicActivation
from qdit.search.latency import read_latency
from tests.preloaded import python


def timing(minimum, middle=None):
    return Timing(minimum, middle or minimum, 0.0, 3)


def test_candidates_take_turns_and_the_first_turn_does_not_count():
    now, order = [0.0], []

    def call(name, seconds):
        order.append(name)
        now[0] += seconds

    seconds = {"a": iter([100, 1, 2, 3]), "b": iter([100, 10, 10, 10])}
    calls = {name: (lambda name=name: call(name, next(seconds[name]))) for name in seconds}
    found = interleaved(calls, 3, clock=lambda: now[0])
    assert order == ["a", "b"] * 4
    assert (found["a"].minimum, found["a"].median, found["a"].spread, found["a"].repeats) == (1, 2, 0.5, 3)
    assert found["b"] == Timing(10, 10, 0.0, 3)


def test_ratios_are_geometric_means_of_rival_over_own():
    ratio = Ratio.of([(timing(4, 8), timing(1, 1)), (timing(9, 2), timing(1, 1))])
    assert math.isclose(ratio.minima, 6) and math.isclose(ratio.medians, 4)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal("x", 2.0, 3.0), 1.99, "missed"),
        (Goal("x", 2.0, 3.0), 2.0, "met"),
        (Goal("x", 2.0, 3.0), 3.0, "met, ambitious"),
        (Goal("x", 0.9, 0.7, at_most=True), 0.91, "missed"),
        (Goal("x", 0.9, 0.7, at_most=True), 0.9, "met"),
        (Goal("x", 0.9, 0.7, at_most=True), 0.6, "met, ambitious"),
        (Goal("x", 1.0), 5.0, "met"),
    ],
)
def test_verdicts(goal, value, verdict):
    assert goal.verdict(value) == verdict
    judged = Judged.measured(goal, value)
    assert Judged.of_dict(json.loads(json.dumps(judged.to_dict()))) == judged
    assert bool(shortfall([judged])) == (verdict == "missed")


def test_what_was_not_measured_falls_short_too():
    lines = shortfall([Judged.without(Goal("gpu", 1.0), "not measured", "no GPU")])
    assert lines == ["not measured: gpu: no GPU"]


def test_ratio_of_candidates_needs_both_at_every_layer():
    layers = ((8, 4), (4, 8))
    timings = {(2, layer, "torch fp32"): timing(6.0) for layer in layers}
    timings |= {(2, layer, "W4A8 g32"): timing(2.0) for layer in layers}
    found = kernels.ratio(timings, 2, "torch fp32", "W4A8 g32")
    assert found is not None and math.isclose(found.minima, 3)
    assert kernels.ratio(timings, 2, "openvino u4 g32", "W4A8 g32") is None


def test_the_peak_loop_counts_its_operations():
    loop = kernels.peak_loop()
    if loop is None:
        pytest.skip("no AVX512-VNNI here")
    assert loop(0, 10) == 10 * loop(0, 1) == 10 * 24 * 2 * 64
    assert loop(1, 10) == 10 * 24 * 2 * 16


def test_what_is_there_computes_the_right_product_before_it_is_timed():
    missing: dict[str, str] = {}
    o = operands(4, 128, 48)
    with torch.inference_mode():
        timed = rivals.calls(rivals.rivals((32, 128)), o, missing)
    assert {"torch fp32", "torch bf16"} <= set(timed) and not set(timed) & set(missing)
    assert not any("wrong" in reason for reason in missing.values()), missing
    assert set(timed) | set(missing) == set(rivals.rivals((32, 128)))


@pytest.mark.parametrize("wrong_rows", [1, 4])
def test_a_wrong_peer_is_not_timed(wrong_rows):
    def make(o):
        product = o.x.double() @ o.weight.double().T
        wrong = product + (len(o.x) == wrong_rows) * 0.1 * product.abs().mean()
        return Peer(lambda: wrong.float(), tensor, product)

    where = "one row" if wrong_rows == 1 else "4 rows"
    with pytest.raises(Missing, match=f"wrong product at {where}"):
        conforming(make, operands(4, 32, 8))
    missing: dict[str, str] = {}
    assert rivals.calls({"bad": make}, operands(4, 32, 8), missing) == {} and "wrong" in missing["bad"]


def test_not_a_number_is_wrong():
    o = operands(1, 32, 8)
    with pytest.raises(Missing, match="wrong product"):
        conforming(lambda o: Peer(lambda: torch.full((1, 8), math.nan), tensor, torch.ones(1, 8).double()), o)


def test_a_peer_that_cannot_run_says_why(monkeypatch):
    with pytest.raises(Missing, match="powers of two|not installed"):
        peers.onnxruntime_grouped(operands(2, 96, 4), 96)
    monkeypatch.setenv(peers_onednn.VARIABLE, "/nowhere/libdnnl.so")
    peers_onednn.library.cache_clear()
    with pytest.raises(Missing, match="onednn is not installed .no /nowhere/libdnnl.so"):
        peers_onednn.grouped(operands(2, 96, 4), 32)
    peers_onednn.library.cache_clear()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1"])
def test_blocks_of_ggml_hold_the_weight(name):
    codes, zero_point, scale = random_codes(operands(1, 64, 3), 32)
    packed = peers_llama.blocks(name, codes, -zero_point * scale, scale)
    assert packed.shape == (3, 2, {"Q4_0": 18, "Q4_1": 20}[name])
    head = packed.shape[-1] - 16
    assert torch.equal(packed[..., :2].clone().view(torch.float16).float(), scale)
    assert torch.equal(torch.cat([packed[..., head:] & 15, packed[..., head:] >> 4], -1), codes)


def test_eager_simulation_is_the_released_rule():
    module = quantized(random_model(sampling.TINY), group_size=16).get_submodule("blocks.0.attn.qkv")
    module.activation = DynamicActivation(bits=8, group_size=16, include_zero=False)
    x = torch.randn(2, 5, 48)
    assert torch.allclose(EagerLinear(module, group_size=16, bits=8)(x), module(x), atol=1e-5)


def test_modes_agree_and_integers_are_small():
    model = random_model(sampling.TINY)
    x, step, label = torch.randn(2, 1, 8, 8), torch.tensor([5, 500]), torch.tensor([1, 2])
    made = {mode: in_mode(model, mode, group_size=16) for mode in (FULL, EAGER, SIMULATED, INTEGER)}
    with torch.inference_mode():
        outputs = {mode: one(x, step, label) for mode, one in made.items()}
    full = outputs[FULL]
    for mode in (EAGER, SIMULATED, INTEGER):
        assert 0 < (outputs[mode] - full).norm() / full.norm() < 0.5
    assert (outputs[INTEGER] - outputs[SIMULATED]).norm() / full.norm() < 1e-2
    sizes = {mode: weight_bytes(one) for mode, one in made.items()}
    assert sizes[INTEGER] < sizes[FULL] < sizes[SIMULATED]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """What every command leaves at its tiny size."""
    folder = tmp_path_factory.mktemp("bench")
    size = replace(kernels.QUICK, linears=((96, 48),))
    write_record(folder / "kernels.json", kernels.measure(size, "test"))
    latency = ["latency", folder / "latency.json", "--width", 48, "--groups", "4,12", "--rows", 4, "--repeats", 2]
    commands = [[name, folder / f"{name}.json", "--quick"] for name in ("sampling", "memory", "ranges", "rounding")]
    with pytest.MonkeyPatch.context() as patch:  # each mode of `memory` has a process of its own
        patch.setattr("qdit.bench.memory.subprocess", SimpleNamespace(run=lambda call, **_: python(call[1:])))
        for command in (*commands, latency):
            cli.app(["bench", *map(str, command)], standalone_mode=False)
    return folder


def test_records_say_where_they_were_measured(records):
    for path in records.glob("*.json"):
        content = read_record(path)
        assert content["bench"] == path.stem and content["machine"]["processor"] and content["commit"]
        assert set(content["load"]) == {"before", "after"} and content["command"]
        text = text_of(content)
        assert content["machine"]["processor"] in text and content["command"] in text


def test_records_become_pages(records, tmp_path):
    made = write_page(read_record(records / "kernels.json"), tmp_path / "kernels")
    assert [path.suffix for path in made] == [".md", ".svg"]
    again = write_page(read_record(records / "kernels.json"), tmp_path / "again")
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in again]
    assert "| goal" in made[0].read_text() and "What falls short" in made[0].read_text()


def test_goals_go_into_a_page(records, tmp_path):
    content = read_record(records / "kernels.json")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- goals kernels -->\nold\n<!-- end -->\nafter\n")
    write_into(content, page)
    lines = page.read_text()
    assert (
        goals_of(content) in lines and "old" not in lines and lines.startswith("before") and lines.endswith("after\n")
    )
    counted = sum(int(number) for number in re.findall(r"(\d+) (?:goals|missed|not)", goals_of(content)))
    assert counted == len(content["goals"])
    with pytest.raises(DataError, match="goals kernels"):
        write_into(content, records / "kernels.json")


def test_small_linears_are_compared_by_group_size():
    ratios = small.ratios(2, width=48, rows=8, groups=(4, 12))
    assert list(ratios) == ["4", "12"] and all(r["minima"] > 0 for r in ratios.values())
    assert [j.goal.name for j in small.judge(ratios, "here")] == [
        "mini's linears, W4A8 g4 vs fp32, here",
        "mini's linears, W4A8 g12 vs fp32, here",
    ]
    assert "g12" in small.text(ratios, style="github")


def test_curves_are_means_over_the_layers():
    def entry(inputs, candidate, gops):
        return {"rows": 2, "inputs": inputs, "outputs": 4, "candidate": candidate, "gops": gops}

    measured = [entry(8, "torch fp32", 1.0), entry(8, kernels.PEAK, 16.0), entry(8, "W4A8 g32", 4.0)]
    measured += [entry(4, "torch fp32", 1.0), entry(4, kernels.PEAK, 16.0), entry(4, "W4A8 g32", 9.0)]
    (speed, fraction) = curves({"measured": measured})["W4"][32]
    assert math.isclose(speed, 6) and math.isclose(fraction, 6 / 16)


def test_a_latency_model_answers_or_says_what_it_has(records):
    model = read_latency(records / "latency.json")
    entries = read_record(records / "latency.json")["measured"]
    one = next(e for e in entries if (e["inputs"], e["outputs"], e["group_size"]) == (48, 144, 12))
    assert model.seconds(48, 144, 12) == one["seconds"]["minimum"]
    assert model.seconds(48, 144, 12) == one["seconds"]["minimum"]
    assert (model.rows, model.weight_bits, model.activation_bits) == (4, 4, 8)
    assert math.isclose(model.total([(48, 144, 12)] * 2), 2 * model.seconds(48, 144, 12))
    with pytest.raises(ConfigError, match=r"groups of 6: measured are groups \[4, 12\]"):
        model.seconds(48, 144, 6)
    with pytest.raises(ConfigError, match="measured are .*48→144"):
        model.seconds(7, 7, 4)


@pytest.mark.parametrize("damage", [{"bench": "kernels"}, {"measured": []}, {"rows": None}, {"format": 9}])
def test_what_is_no_latency_model_is_refused(records, tmp_path, damage):
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(read_record(records / "latency.json") | damage))
    with pytest.raises(DataError):
        read_latency(path)


def test_a_latency_model_of_impossible_groups_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="7"):
        cli.app(["bench", "latency", str(tmp_path / "x.json"), "--width", "48", "--groups", "7"], standalone_mode=False)
    with pytest.raises(ConfigError, match="separated by commas"):
        cli.app(["bench", "latency", str(tmp_path / "x.json"), "--groups", "a"], standalone_mode=False)
