"""Walking block by block gives the bits of whole passes, on both families, and runs each block only a few times."""

from copy import deepcopy

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.apply import blocks_of, collect_inputs, gptq_weights, insert_dynamic
from qdit.quant.gptq import HessianAccumulator, gptq
from qdit.quant.layers import MODULATION_ROLES, layers, operands
from qdit.quant.observe import observe_inputs
from qdit.quant.sites import activation_of, quantize_site
from qdit.quant.walk import BlockWalk, block_paths
from tests.small_models import inputs, random_dit
from tests.small_video_models import random_stdit3, video_inputs

FAMILIES = {"image": (random_dit, inputs), "video": (random_stdit3, video_inputs)}
BITS, GROUP = 4, 8


@pytest.fixture(params=FAMILIES)
def family(request):
    """A model with dynamic input quantizers before its core linears, and three batches."""
    make, batch_of = FAMILIES[request.param]
    model = make()
    core = select(model.sites(), roles=CORE_ROLES)
    insert_dynamic(model, core, bits=8, group_sizes={site.name: GROUP for site in core})
    return model, [batch_of(count=3, seed=seed) for seed in (1, 2, 3)]


def by_whole_passes(model, stages, batches):
    """GPTQ as defined: for each stage a pass of the whole model, all Hessians of the stage, then its weights."""
    for stage in stages:
        hessians = {site.name: HessianAccumulator(linear_of(model, site).weight.shape[1]) for site in stage}

        def add(site, x, hessians=hessians):
            quantizer = activation_of(model, site)
            hessians[site.name].add(x if quantizer is None else quantizer(x))

        observe_inputs(model, stage, batches, add)
        for site in stage:
            weight = linear_of(model, site).weight.detach()
            result = gptq(weight, hessians[site.name].hessian, bits=BITS, group_size=GROUP)
            quantize_site(model, site, weight=result)


@pytest.mark.parametrize("sequential", [True, False])
def test_gptq_is_that_of_whole_passes(family, sequential):
    model, batches = family
    expected = deepcopy(model)
    sites = select(model.sites(), roles=(*CORE_ROLES, *MODULATION_ROLES))
    stages = blocks_of(sites)
    by_whole_passes(expected, stages if sequential else [sites], batches)
    sizes = {site.name: GROUP for site in sites}
    gptq_weights(model, sites, batches, bits=BITS, group_sizes=sizes, sequential=sequential)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_two_orders_differ(family):
    """Otherwise the test above could not tell them apart."""
    first, batches = family
    second = deepcopy(first)
    sites = select(first.sites(), roles=CORE_ROLES)
    sizes = {site.name: GROUP for site in sites}
    gptq_weights(first, sites, batches, bits=2, group_sizes=sizes)
    gptq_weights(second, sites, batches, bits=2, group_sizes=sizes, sequential=False)
    last = sites[-1].name
    assert not torch.equal(linear_of(first, last).weight, linear_of(second, last).weight)


def test_collected_inputs_are_those_of_whole_passes(family):
    model, batches = family
    sites = [*layers(model, "own"), *operands(model)]
    expected = {}
    for stage in blocks_of(sites):  # operands of other blocks must stay fused, as when each block has a pass of its own
        observe_inputs(model, stage, batches, lambda site, x: expected.setdefault(site.name, []).append(x))
    result = dict(collect_inputs(model, sites, batches))
    assert {site.name for site in result} == set(expected)
    for site, x in result.items():
        assert torch.equal(x, torch.cat(expected[site.name])), site.name
        assert not x.is_inference()


def test_each_block_runs_a_few_times_whatever_the_depth(family):
    model, batches = family
    runs = dict.fromkeys(block_paths(model), 0)
    for path in runs:

        def count(*_, path=path):
            runs[path] += 1

        model.get_submodule(path).register_forward_hook(count)
    list(collect_inputs(model, select(model.sites(), roles=CORE_ROLES), batches))
    assert max(runs.values()) <= 2 * len(batches)


def test_a_walk_leaves_no_hook_behind_and_does_not_go_back(family):
    model, batches = family
    walk = BlockWalk(model, batches)
    walk.go(1)
    blocks = blocks_of(select(model.sites(), roles=CORE_ROLES))
    with pytest.raises(ConfigError, match="block 0 lies behind block 1"):
        walk.observe(blocks[0], lambda *_: None)
    with pytest.raises(ConfigError, match="not of one block"):
        walk.observe([*blocks[0], *blocks[1]], lambda *_: None)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
