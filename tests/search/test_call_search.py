"""A search for a diffusers transformer: its fitness by hand, every kind on three families, and quantization with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import ConfigError, DataError, Unsupported
from qdit.core.files import read_json, write_json
from qdit.core.seeds import Purpose, derive_seed, torch_generator
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.roles import CORE_ROLES, select
from qdit.models.weights_files import weights_sha256
from qdit.quant.allocation import read_allocation
from qdit.quant.batches import Keywords, run
from qdit.quant.checkpoint import read_checkpoint
from qdit.quant.fisher import mean_squares
from qdit.sampling.keyword_file import save_keywords
from qdit.search.call_fitness import CallFitness, CallOrder, CallSearchJob
from qdit.search.layers import LayerQuantizer
from qdit.search.options import parse_search_options
from qdit.search.run import Search, run_search
from qdit.search.sensitivity import exact_output, hessian_scores, output_scores
from qdit.search.space import SearchSpace
from tests.pretended_gpu import pretended_gpu
from tests.small_transformers import keyword_set, keywords, tiny_network, tiny_transformer

FAMILIES = ("flux", "pixart", "wan")
CALLS = 8
FEW = {"population": 4, "parents": 2, "crossover": 2, "mutation": 2, "iterations": 2}
OPTIONS = {
    "racing": FEW | {"rungs": [4, 8], "keep": 0.5, "surrogate": "ilp"},
    "evolution": FEW,
    "random": {"evaluations": 4},
    "hessian": {"probes": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny transformers, and files of recorded calls."""
    root = tmp_path_factory.mktemp("transformers")
    for family in FAMILIES:
        tiny_transformer(family).save_pretrained(root / family)
        calls = keyword_set(family, "trajectory", count=CALLS)
        facts = {"weights_sha256": weights_sha256(root / family)}
        save_keywords(root / f"{family}.safetensors", calls, facts)
    return root


def job(folder: Path, family: str, **values) -> CallSearchJob:
    given = {"weights": folder / family, "calls": folder / f"{family}.safetensors", "sizes": (4, 8, 16), "reference": 8}
    bits = {"weight_bits": 4, "activation_bits": 8}
    return CallSearchJob(**(given | bits | {"protocol": CallOrder(), "images": CALLS, "chunk": 4} | values))


def searched(folder: Path, family: str, kind: str, out: Path, *, workers: int = 1, **values) -> dict:
    options = parse_search_options(kind, OPTIONS.get(kind, {}))
    task = Search(kind, job(folder, family, **values), options, calibration=folder / f"{family}.safetensors")
    return run_search(task, out, workers=workers, show=False)


def relative_error(network: DiffusersNetwork, exact: DiffusersNetwork, family: str) -> float:
    """Σ ‖F − F_g‖² / Σ ‖F‖² over all calls, in numpy."""
    calls = keyword_set(family, "trajectory", count=CALLS).keywords
    with torch.no_grad():
        full, output = (run(model, calls).double().numpy() for model in (exact, network))
    return float(np.square(full - output).sum() / np.square(full).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_allocation_quantizes_to_the_error_that_the_search_measured(
    folder: Path, family: str, tmp_path: Path
) -> None:
    content = searched(folder, family, "racing", tmp_path / "found.json")
    full = [entry for entry in content["history"] if entry["images"] == CALLS]
    assert content["budget"] <= content["budget_limit"]
    assert content["fitness"] == min(entry["fitness"] for entry in full)
    groups = read_allocation(tmp_path / "found.json")
    assert set(groups) == {site.name for site in select(tiny_network(family).sites(), roles=CORE_ROLES)}
    mixed = next(entry for entry in full if len(set(entry["genome"])) > 1)
    names = [layer[0] for layer in content["space"]["layers"]]
    write_json(tmp_path / "mixed.json", {"groups": dict(zip(names, mixed["genome"], strict=True))})
    for allocation, fitness in (("found", content["fitness"]), ("mixed", mixed["fitness"])):
        result = CliRunner().invoke(app, [
            "quantize", str(folder / family), str(tmp_path / "made"), "--method", "q-dit", "--bits", "w4a8",
            "--options", '{"rounding": "nearest"}', "--allocation", str(tmp_path / f"{allocation}.json"),
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
        network, _, _ = read_checkpoint(tmp_path / "made")
        assert relative_error(network, tiny_network(family), family) == pytest.approx(fitness, rel=1e-5)


@pytest.mark.parametrize("kind", ["ilp", "hessian", "random", "evolution", "uniform", "chance"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_keeps_the_budget(folder: Path, family: str, kind: str, tmp_path: Path) -> None:
    content = searched(folder, family, kind, tmp_path / "found.json")
    assert content["budget"] <= content["budget_limit"] and content["identity"]["method"] == kind
    measured = {"random": 4, "evolution": 8}.get(kind, 0) * CALLS
    assert content["images_sampled"] == measured
    assert (content["fitness"] is not None) == bool(measured)
    again = searched(folder, family, kind, tmp_path / "again.json")
    assert again == content


def test_smaller_groups_lose_less_and_calls_are_computed_once(folder: Path) -> None:
    fitness = job(folder, "wan").fitness()
    small, large = (fitness.space.uniform(size) for size in (4, 8))
    assert fitness(small) < fitness(large)
    assert fitness.images_sampled == 2 * CALLS
    fitness.on_prefix(small, 4)
    assert fitness.images_sampled == 2 * CALLS, "the first calls are known"
    other = fitness.on_noise(5)
    assert other(small) == pytest.approx(fitness(small), rel=1e-6), "all calls, in another order"
    assert other.on_prefix(small, 4) != fitness.on_prefix(small, 4)
    with pytest.raises(ConfigError, match=r"6 calls in chunks of 4: allowed are \[4, 8\] calls"):
        fitness.on_prefix(small, 6)


def test_an_output_that_is_not_finite_is_the_worst(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitness = job(folder, "wan").fitness()
    fitness(fitness.space.start)
    fitness.forget()
    monkeypatch.setattr("qdit.search.call_fitness.run", lambda network, batch: torch.full((4, 4, 2, 4, 4), torch.inf))
    assert fitness(fitness.space.start) == float("inf")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(folder: Path, tmp_path: Path) -> None:
    alone = searched(folder, "pixart", "racing", tmp_path / "alone.json")
    assert searched(folder, "pixart", "racing", tmp_path / "two.json", workers=2) == alone


@pytest.mark.parametrize("family", ["flux", "sana"])
def test_scores_are_those_of_one_quantized_layer(family: str) -> None:
    """Also of a pointwise convolution, whose channels come second."""
    network, batch = tiny_network(family), keywords(family, count=2)
    space, quantizer = SearchSpace.of(network, (4, 8), 8, weight_bits=4, activation_bits=8), LayerQuantizer(4, 8)
    scores = output_scores(network, space, [batch], quantizer=quantizer)
    kinds = {site.name: site.kind for site in network.sites()}
    names = [layer.name for layer in space.layers]
    first = {kinds[name]: row for row, name in reversed(list(enumerate(names)))}
    assert set(first) == ({"linear", "pointwise"} if family == "sana" else {"linear"})
    for row in first.values():
        name, seen = names[row], []

        def keep(_module, args, out, seen=seen):
            seen.extend((args[0], out))

        handle = network.get_submodule(name).register_forward_hook(keep)
        with torch.no_grad():
            run(network, batch)
        handle.remove()
        (x, exact), layer = seen, network.get_submodule(name)
        form = quantizer.layer(name, layer, 4)
        rounded = form.activation(x.movedim(1, -1)) if kinds[name] == "pointwise" else form.activation(x)
        output = rounded @ form.weight.T + (0 if layer.bias is None else layer.bias)
        output = output.detach().movedim(-1, 1) if kinds[name] == "pointwise" else output.detach()
        assert scores[row, 0] == pytest.approx(float((exact - output).double().square().sum()) / 2, rel=1e-4)
    hessian = hessian_scores(network, space, [batch], quantizer=quantizer, probes=2)
    assert (hessian[scores.sum(axis=1) > 0] > 0).all()
    of_batch = derive_seed(0, Purpose.PROBE, 0)
    for row in first.values():  # alone, not together with the other layers of its block
        site = next(site for site in network.sites() if site.name == names[row])
        seeds = [derive_seed(of_batch, Purpose.PROBE, probe) for probe in range(2)]
        inputs, squares = mean_squares(network, [site], batch, seeds=seeds)
        x, form = inputs[site.name], quantizer.layer(site.name, network.get_submodule(site.name), 4)
        lost = (squares[site.name] * (exact_output(network, site.name, x) - form(x)).square()).double().sum()
        assert hessian[row, 0] == pytest.approx(float(lost.detach()) / 2, rel=1e-5)


def test_gradients_of_a_transformer_are_those_of_autograd() -> None:
    network, batch = tiny_network("flux"), keywords("flux", count=2)
    (site,) = [site for site in network.sites() if site.name == "single_transformer_blocks.0.proj_mlp"]
    inputs, squares = mean_squares(network, [site], batch, seeds=[3])
    kept = []
    handle = network.get_submodule(site.name).register_forward_hook(lambda _m, args, out: kept.extend([args[0], out]))
    with torch.enable_grad():
        output = run(network, batch)
        signs = torch.randint(2, tuple(output.shape), generator=torch_generator(3, Purpose.PROBE, 0)) * 2 - 1
        (gradient,) = torch.autograd.grad((output * signs).sum(), kept[1])
    handle.remove()
    torch.testing.assert_close(inputs[site.name], kept[0].detach())
    torch.testing.assert_close(squares[site.name], gradient.square(), rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_nothing_leaves_the_device_of_the_network(folder: Path) -> None:
    """On a device that refuses tensors of the CPU: the same fitness and the same scores."""
    here = job(folder, "flux").fitness()
    batch = here.calls.take(torch.arange(4))
    with pretended_gpu() as gpu:
        network = tiny_network("flux").to(gpu)
        there = CallFitness(
            network,
            here.space,
            calls=here.calls.to(gpu),
            calls_sha256=here.calls_sha256,
            order=CallOrder(),
            images=CALLS,
            chunk=4,
            quantizer=LayerQuantizer(4, 8),
        )
        fitness = there(here.space.start)
        scores = [
            scores_of(network, here.space, [batch.to(gpu)], quantizer=LayerQuantizer(4, 8))
            for scores_of in (output_scores, hessian_scores)
        ]
    assert fitness == pytest.approx(here(here.space.start), rel=1e-4)
    for scores_of, values in zip((output_scores, hessian_scores), scores, strict=True):
        expected = scores_of(tiny_network("flux"), here.space, [batch], quantizer=LayerQuantizer(4, 8))
        np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_what_recorded_calls_cannot_do_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="response: compares features of images"):
        searched(folder, "flux", "response", tmp_path / "a.json")
    task = Search("random", job(folder, "flux"), parse_search_options("random", {}), fresh=1)
    with pytest.raises(Unsupported, match="fresh 1: .*recorded calls"):
        run_search(task, tmp_path / "a.json", show=False)
    with pytest.raises(ConfigError, match=r"group sizes \[36\] do not divide the inputs of every layer"):
        searched(folder, "flux", "uniform", tmp_path / "a.json", sizes=(8, 36))
    with pytest.raises(DataError, match="calibrate with these weights"):
        job(folder, "wan", calls=folder / "pixart.safetensors").fitness()
    save_keywords(
        tmp_path / "uniform.safetensors",
        keyword_set("wan", "uniform"),
        {"weights_sha256": weights_sha256(folder / "wan")},
    )
    with pytest.raises(DataError, match="kind 'uniform', a search takes trajectory"):
        job(folder, "wan", calls=tmp_path / "uniform.safetensors").fitness()
    fitness = replace(job(folder, "wan"), images=4).fitness()
    with pytest.raises(ConfigError, match="squared length nan"):
        fitness.calls = Keywords({name: value * torch.nan for name, value in fitness.calls.samples.items()})
        fitness(fitness.space.start)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --calibration trajectory=FILE"),
        (("--calibration", "trajectory={calls}", "--steps", "4"), "--steps: is about sampled images"),
        (("--calibration", "trajectory={calls}", "--chunk", "16"), "--chunk 16: must be 1 to 8"),
    ],
)
def test_the_command_refuses(folder: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    arguments = [word.format(calls=folder / "flux.safetensors") for word in words]
    result = CliRunner().invoke(app, ["search", str(folder / "flux"), str(tmp_path / "a.json"), *arguments])
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)


def test_the_command_searches(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    result = CliRunner().invoke(app, [
        "search", str(folder / "flux"), str(out), "--kind", "random", "--options", json.dumps(OPTIONS["random"]),
        "--sizes", "16,8,4", "--reference-size", "8", "--chunk", "4",
        "--calibration", f"trajectory={folder / 'flux.safetensors'}",
    ])  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"{4 * CALLS} calls measured" in result.output
    assert len(read_json(out)["history"]) == 4
