"""Fitness: swapping layers is the same as quantizing anew, prefixes are nested, images are counted."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.rtn import Rtn, RtnOptions
from qdit.core.errors import ConfigError
from qdit.core.files import read_json
from qdit.core.pixels import to_uint8
from qdit.metrics.features import Features
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.allocation import check_names, read_allocation
from qdit.quant.apply import insert_dynamic, round_weights
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_images
from qdit.sampling.protocol import Protocol
from qdit.search.evolution import evolve
from qdit.search.fitness import ImageFitness
from qdit.search.journal import Journal, in_full, search_identity
from qdit.search.layers import LayerQuantizer, SwappableModel
from qdit.search.option_classes import EvolutionOptions, RacingOptions
from qdit.search.racing import Race
from qdit.search.result import allocation, searched, write_allocation
from qdit.search.space import SearchSpace
from tests.small_models import inputs, random_dit

MODEL = random_dit()
SPACE = SearchSpace.of(MODEL, (4, 12, 24), 12)
MIXED = (4, 24, 12, 24, 12, 24, 24, 12)
PROTOCOL = Protocol(steps=3, cfg_scale=1.5, seed=4)


class Pixels:
    """An extractor: a few averages of pixels."""

    name, digest, classes_are_labels = "pixels", "0" * 64, False

    def __call__(self, images):
        pool = torch.as_tensor(images).float().flatten(1)[:, ::13] / 255
        return Features(pool.numpy(), pool.numpy(), pool.numpy())


def fitness(**options) -> ImageFitness:
    given = {"protocol": PROTOCOL, "images": 12, "chunk": 4, "extractor": Pixels(), "quantizer": LayerQuantizer(4, 8)}
    return ImageFitness(MODEL, SPACE, **(given | options))


def fresh(genome):
    model = deepcopy(MODEL)
    sites, sizes = select(model.sites(), roles=CORE_ROLES), SPACE.groups(genome)
    insert_dynamic(model, sites, bits=8, group_sizes=sizes)
    round_weights(model, sites, bits=4, group_sizes=sizes)
    return prepare_inference(model)


def forward(model):
    with torch.inference_mode():
        return model(*inputs())


def test_swapped_model_is_a_freshly_quantized_one_bit_for_bit():
    swappable = SwappableModel(MODEL, SPACE, LayerQuantizer(4, 8))
    for genome in (MIXED, SPACE.start, MIXED[::-1], MIXED):
        assert torch.equal(forward(swappable.use(genome)), forward(fresh(genome)))
    rtn = Rtn().quantize(
        MODEL,
        weight_bits=4,
        activation_bits=8,
        scope="common",
        calibration={},
        options=RtnOptions(group_size=12, activation="dynamic"),
    )
    assert torch.equal(forward(swappable.use(SPACE.start)), forward(prepare_inference(rtn.model)))
    assert torch.equal(forward(swappable.full_precision()), forward(prepare_inference(deepcopy(MODEL))))
    assert swappable.layer("blocks.0.mlp.fc1", 4) is swappable.layer("blocks.0.mlp.fc1", 4)


def test_symmetric_quantizers_are_others():
    plain, symmetric = (SwappableModel(MODEL, SPACE, LayerQuantizer(4, 8, symmetric=s)) for s in (False, True))
    difference = forward(plain.use(MIXED)) - forward(symmetric.use(MIXED))
    assert difference.isfinite().all() and difference.abs().max() > 0


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_fitness_is_the_distance_of_the_sampled_images(sampler):
    protocol = Protocol(sampler=sampler, steps=3, cfg_scale=1.5, seed=4)
    features = []
    for model in (fresh(MIXED), prepare_inference(deepcopy(MODEL))):
        chunks = [sample_images(model, protocol, range(first, first + 4))[0] for first in (0, 4, 8)]
        features.append(np.concatenate([Pixels()(to_uint8(chunk)).pool for chunk in chunks]))
    own, full = features
    paired = fitness(protocol=protocol)
    assert paired(MIXED) == frechet_distance(moments(own), moments(full))
    assert paired.on_prefix(MIXED, 8) == frechet_distance(moments(own[:8]), moments(full[:8]))
    reference = moments(np.random.default_rng(0).normal(size=(50, full.shape[1])))
    assert fitness(protocol=protocol, reference=reference)(MIXED) == frechet_distance(moments(own), reference)


def test_images_are_counted_and_prefixes_kept():
    one = fitness()
    values = [one.on_prefix(MIXED, images) for images in (4, 8, 4, 8)]
    assert one.images_sampled == 8 and values[:2] == values[2:]
    whole = one(MIXED)
    assert one.images_sampled == 12
    assert one(MIXED) == whole and one.images_sampled == 24
    one.on_prefix(MIXED, 4)
    one.forget()
    one.on_prefix(MIXED, 4)
    assert one.images_sampled == 32


def test_images_that_are_not_finite_lose():
    def broken(name, weight, size):
        rounded = LayerQuantizer(4, 8).round(weight, size)
        return replace(rounded, scale=rounded.scale * math.inf)

    with_broken = fitness(quantizer=LayerQuantizer(4, 8, weights=broken), protocol=Protocol(steps=3, cfg_scale=1.5))
    with_broken._full = fitness()._full or [np.zeros((4, 5))] * 3
    assert with_broken(MIXED) == math.inf
    assert with_broken.images_sampled == 4


def test_identity_tells_searches_apart():
    def changed(**options):
        return fitness(**options).identity()

    other = moments(np.random.default_rng(0).normal(size=(9, 5)))
    variants = [
        changed(),
        changed(images=8),
        changed(chunk=6),
        changed(protocol=Protocol(steps=4)),
        changed(quantizer=LayerQuantizer(4, 8, symmetric=True)),
        changed(quantizer=LayerQuantizer(6, 8)),
        changed(reference=other),
        ImageFitness(
            random_dit(seed=1),
            SPACE,
            protocol=PROTOCOL,
            images=12,
            chunk=4,
            extractor=Pixels(),
            quantizer=LayerQuantizer(4, 8),
        ).identity(),
    ]
    assert changed() == variants[0]
    assert len({str(variant) for variant in variants}) == len(variants)


def test_prefixes_are_whole_chunks():
    with pytest.raises(ConfigError, match=r"10 images in chunks of 4: allowed are \[4, 8\]"):
        fitness(images=10)
    with pytest.raises(ConfigError, match=r"allowed are \[4, 8, 12\]"):
        fitness().on_prefix(MIXED, 16)


def test_whole_search_to_an_allocation(tmp_path):
    options, racing = EvolutionOptions(6, 2, 2, 2, 2), RacingOptions((4, 12), parents=2)
    paths = []
    for kind in ("plain", "racing"):
        measured = fitness()
        identity = search_identity(kind, SPACE, {}, seed=0, fitness=measured.identity())
        with Journal(tmp_path / f"{kind}.jsonl", identity) as journal:
            measure = in_full(measured, images=12, journal=journal)
            if kind == "racing":
                start = frozenset({SPACE.start})
                measure = Race(measured.on_prefix, racing, journal, start, forget=measured.forget)
            outcome = evolve(SPACE, measure, options, seed=0)
            assert journal.images_sampled == measured.images_sampled
        content = searched(SPACE, outcome, images_sampled=journal.images_sampled, seed=0, identity=identity)
        paths.append(tmp_path / f"{kind}.json")
        write_allocation(paths[-1], content)
        groups = read_allocation(paths[-1])
        check_names(groups, [layer.name for layer in SPACE.layers])
        assert SPACE.within(SPACE.genome(groups))
    plain, raced = map(read_json, paths)
    assert plain["images_sampled"] == 12 * 12 > raced["images_sampled"]
    assert plain["fitness"] == min(one["fitness"] for one in plain["history"]) == fitness()(outcome_genome(plain))
    assert raced["fitness"] <= raced["history"][0]["fitness"] == plain["history"][0]["fitness"]
    assert plain["budget"] <= plain["budget_limit"] and plain["harmonic_mean_group_size"] >= 12


def test_killed_race_goes_on_with_the_same_images(tmp_path):
    def search(path):
        measured = fitness()
        with Journal(path, measured.identity()) as journal:
            racing = RacingOptions((4, 8, 12), keep=0.5, parents=2)
            measure = Race(measured.on_prefix, racing, journal, frozenset({SPACE.start}), forget=measured.forget)
            outcome = evolve(SPACE, measure, EvolutionOptions(6, 2, 2, 2, 2), seed=1)
            return outcome, journal.images_sampled, measured.images_sampled

    whole = search(tmp_path / "journal")
    content = (tmp_path / "journal").read_bytes()
    for part in (0.3, 0.6, 0.9):
        (tmp_path / "journal").write_bytes(content[: int(len(content) * part)])
        again = search(tmp_path / "journal")
        assert again[:2] == whole[:2] and again[2] < whole[2]
        assert (tmp_path / "journal").read_bytes() == content


def outcome_genome(content):
    return SPACE.genome(content["groups"])


def test_allocations_beyond_the_budget_are_not_written():
    with pytest.raises(ConfigError, match="exceeds the budget of uniform 12"):
        allocation(SPACE, SPACE.uniform(4), fitness=None, images_sampled=0, seed=None, identity={})
