"""Estimates of memory against a census of live tensors: the real code on shapes alone, up to those of DiT-XL/2."""

import gc
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from qdit.core.run import Run
from qdit.models.config import DiTConfig
from qdit.quant import reconstruction, store
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import collect_inputs, round_weights
from qdit.quant.fisher import sensitivities
from qdit.quant.layers import layers, operands
from qdit.quant.passes import ELEMENTS, GRAPH_ELEMENTS, MOST_ROWS
from qdit.quant.ranges import minmax
from qdit.quant.reconstruction import block_units, reconstruct
from qdit.quant.sites import quantize_site
from qdit.quant.twin_search import search_linear
from qdit.quant.unit_learning import Reconstruction
from qdit.workflow import cost_memory
from qdit.workflow.calibration_counts import rows_of
from qdit.workflow.cost_memory import Memory, learning, memory_lines, observing, quantize_memory, sizes_of
from qdit.workflow.cost_models import Network, network_of
from qdit.workflow.cost_runs import calibration_kinds
from qdit.workflow.method_index import method_sources
from qdit.workflow.profile import load_profile, runs_of
from tests.census import GPU, census, dit_on_gpu

XL_256, XL_512 = DiTConfig(depth=2), DiTConfig(depth=2, input_size=64)
NARROW = DiTConfig(depth=2, hidden_size=576, num_heads=8)
DEEP = DiTConfig(depth=5, hidden_size=576, num_heads=8)
LEARN = {("common", False): "rounding", ("common", True): "both", ("own", True): "both"}


def sizes(config):
    return sizes_of(Network(config, 0.0, config.tokens, config.in_channels * config.input_size**2, 0))


def batches(config, rows, size=64):
    for start in range(0, rows, size):
        count = min(size, rows - start)
        number = torch.ones(count, dtype=torch.int64, device=GPU)
        yield torch.empty(count, config.in_channels, config.input_size, config.input_size, device=GPU), number, number


def counted_learning(config, scope, quantized, *, rows, batch, iterations=2):
    """Bytes that the reconstruction of two blocks takes besides both models."""
    one = torch.ones(1, device=GPU)
    with census() as counted:
        model = dit_on_gpu(config)
        reference, weighted = deepcopy(model), layers(model, scope)
        sites = weighted if scope == "common" else [*weighted, *operands(model)]
        round_weights(model, weighted, bits=4, rule=minmax)
        if quantized:
            for site in sites:
                quantize_site(model, site, activation=StaticActivation(bits=8, scale=one, zero_point=one))
        gc.collect()
        models = counted.live["gpu"]
        counted.peak.clear()
        config_of = Reconstruction(iterations, batch)
        units = block_units(sites)[:2]
        reconstruct(model, reference, units, lambda: batches(config, rows), config_of, learn=LEARN[scope, quantized])
    return Memory(counted.peak["gpu"] - models, counted.peak["host"])


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(reconstruction, "tqdm", lambda units, **_: units)


CASES = [
    pytest.param(XL_512, "own", True, 8, 8, id="512-own"),
    pytest.param(XL_512, "common", True, 24, 8, marks=pytest.mark.slow, id="512-common"),
    pytest.param(XL_512, "common", False, 16, 16, marks=pytest.mark.slow, id="512-rounding"),
    pytest.param(XL_256, "common", False, 32, 32, id="256-rounding"),
    pytest.param(XL_256, "own", True, 64, 16, marks=pytest.mark.slow, id="256-own"),
    pytest.param(NARROW, "common", True, 48, 16, marks=pytest.mark.slow, id="narrow-common"),
    pytest.param(DEEP, "own", True, 32, 16, marks=pytest.mark.slow, id="deep-own"),
]


@pytest.mark.parametrize(("config", "scope", "quantized", "rows", "batch"), CASES)
def test_learned_rounding_takes_what_is_estimated(config, scope, quantized, rows, batch) -> None:
    facts = method_sources()["q-diffusion"]
    estimate = learning(sizes(config), facts, {"batch": batch}, scope, rows=rows, quantized=quantized)
    counted = counted_learning(config, scope, quantized, rows=rows, batch=batch)
    assert counted.gpu <= estimate.gpu * 1.02 and estimate.gpu <= 1.3 * counted.gpu
    assert counted.host == estimate.host == 0


def test_large_stores_lie_on_the_host_and_only_there(monkeypatch) -> None:
    """Inputs and outputs of one block, in float32, and not one copy more. More iterations take no more memory."""
    limit = 32 * 4 * XL_256.tokens * XL_256.hidden_size - 1
    monkeypatch.setattr(store, "DEVICE_BYTES", limit)
    monkeypatch.setattr(cost_memory, "DEVICE_BYTES", limit)
    facts = method_sources()["q-diffusion"]
    estimate = learning(sizes(XL_256), facts, {"batch": 8}, "common", rows=32, quantized=False)
    counted = [
        counted_learning(XL_256, "common", False, rows=32, batch=8, iterations=iterations) for iterations in (2, 4)
    ]
    assert counted[0].host == counted[1].host == estimate.host == 2 * (limit + 1)
    assert counted[0].gpu <= estimate.gpu <= 1.3 * counted[0].gpu
    assert counted[1].gpu <= 1.001 * counted[0].gpu


@pytest.mark.parametrize(
    ("config", "rows"), [(NARROW, 24), pytest.param(XL_512, 30, marks=pytest.mark.slow)], ids=["narrow", "512"]
)
@pytest.mark.parametrize("scope", ["common", "own"])
def test_inputs_of_sites_take_what_is_estimated(config, rows, scope) -> None:
    with census() as counted:
        model = dit_on_gpu(config)
        sites = layers(model, scope) if scope == "common" else [*layers(model, scope), *operands(model)]
        models = counted.live["gpu"]
        for _, x in collect_inputs(model, sites, batches(config, rows)):
            del x
    estimate = observing(sizes(config), rows, scope).gpu
    assert counted.peak["gpu"] - models <= 1.02 * estimate <= 1.6 * (counted.peak["gpu"] - models)


def test_gradients_of_all_blocks_stay_within_the_limit(monkeypatch) -> None:
    """The graph of a backward pass is smaller than its limit, and most of the samples' memory is what is kept."""
    config, rows = DEEP, 24
    graph = 2**28
    monkeypatch.setattr("qdit.quant.passes.GRAPH_ELEMENTS", graph // 4)
    with census() as counted:
        model = dit_on_gpu(config)
        sites = [site for site in [*layers(model, "common"), *operands(model)] if site.block == 0]
        models = counted.live["gpu"]
        kept = sensitivities(model, sites, batches(config, rows), fisher="gauss-newton")
        total = sum(part.x.nbytes + part.gradient.nbytes for part in kept.values())
    assert counted.peak["gpu"] - models <= total + graph


def test_a_search_for_scales_takes_what_is_estimated() -> None:
    """Of fc1, whose outputs are the widest: candidates one after the other, each with a few temporary tensors."""
    rows, width = 2 * XL_256.tokens, XL_256.hidden_size
    with census() as counted:
        x, gradient = torch.empty(rows, width, device=GPU), torch.empty(rows, 4 * width, device=GPU)
        weight = torch.empty(4 * width, width, device=GPU)
        before = counted.live["gpu"]
        counted.peak.clear()
        search_linear(x, weight, gradient, weight_bits=8, activation_bits=8, rounds=1)
    searched = counted.peak["gpu"] - before
    weights = 4 * weight.nbytes
    assert searched <= 2 * cost_memory.SEARCHED * x.nbytes / 2 + weights


def test_every_quantization_gets_enough_memory_on_a_cluster(repository: Path, monkeypatch) -> None:
    """Pinned memory, the weights and the data as they are read, and four gigabytes for everything else."""
    monkeypatch.chdir(repository)
    paper = load_profile("paper")
    for table in paper["tables"]:
        for run in runs_of(paper, table):
            network, facts = network_of(paper, run.setting), method_sources()[paper["methods"][run.label]["method"]]
            rows = sum(rows_of(paper, run.setting, kind) for kind in calibration_kinds(paper, run))
            read = sizes_of(network).weights + rows * 4 * network.cells
            assert quantize_memory(paper, run).host + read + 4e9 <= 1e6 * facts.memory_mb, run.path


def test_limits_are_those_of_the_code() -> None:
    """The estimate imports no torch, so it has its own copy of them."""
    assert (cost_memory.PASS_ELEMENTS, cost_memory.MOST_ROWS) == (ELEMENTS, MOST_ROWS)
    assert (cost_memory.DEVICE_BYTES, cost_memory.GRAPH_BYTES) == (store.DEVICE_BYTES, 4 * GRAPH_ELEMENTS)


def test_all_tables_of_the_paper_fit_a_gpu_of_40_gb(repository: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    paper = load_profile("paper")
    (line,) = memory_lines(paper)
    assert "all tables fit a GPU of 40 GB" in line and "48 GB of pinned memory of the host" in line
    run = Run("dit-512-cfg1.5-s50", "natural", "tfmq-dm", "w4a8", "common")
    memory = quantize_memory(paper, run)
    assert memory.host == 2 * 5120 * 4 * 1024 * 1152, "its 5,120 rows are stored twice"
    assert quantize_memory(paper, Run("dit-512-cfg1.5-s50", "natural", "fp", "w16a16", "common")).host == 0
    monkeypatch.setattr(cost_memory, "GPU_BYTES", 24e9)
    lines = memory_lines(paper)
    assert any("quantize dit-512-cfg1.5-s50 ptq4dit common" in line for line in lines)
    assert "take a larger GPU" in lines[1] and not any("rtn-g128" in line for line in lines)


def test_the_page_of_pipelines_has_the_estimates_of_doctor(repository: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    page = " ".join((repository / "docs" / "pipelines.md").read_text(encoding="utf-8").split())
    for name, title in (("flux", "FLUX.1-dev"), ("wan", "Wan 2.1 1.3B")):
        profile = load_profile(name)
        peaks = [cost_memory.pipeline_memory(profile, run)["quantize"].gpu for run in runs_of(profile, name)]
        low, high = (f"{cost_memory.MARGIN * peak / 1e9:.0f}" for peak in (min(peaks), max(peaks)))
        assert f"{low} to {high} GB for {title}" in page
        assert f"at most {high} GB of a GPU" in memory_lines(profile)[0]
