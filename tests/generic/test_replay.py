"""The walk over blocks of any transformer gives the bits of whole passes, and each block computes a few times."""

from copy import deepcopy

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.apply import blocks_of, collect_inputs, gptq_weights, insert_dynamic, site_group_sizes
from qdit.quant.gptq import HessianAccumulator, gptq
from qdit.quant.observe import observe_inputs
from qdit.quant.replay import ReplayWalk
from qdit.quant.sites import activation_of, quantize_site
from qdit.quant.walk import walk_over
from tests.small_models import inputs
from tests.small_transformers import ZOO, keywords, tiny_network

BITS, GROUP = 4, 8


def batches(name):
    """Two batches of different sizes."""
    return [keywords(name, count=2, seed=1), keywords(name, count=1, seed=2)]


@pytest.mark.parametrize("name", ZOO)
def test_collected_inputs_are_those_of_whole_passes(name):
    model, data = tiny_network(name), batches(name)
    sites = select(model.sites(), kinds=("linear", "conv", "pointwise"))
    expected = {}
    observe_inputs(model, sites, data, lambda site, x: expected.setdefault(site.name, []).append(x))
    result = dict(collect_inputs(model, sites, data))
    assert {site.name for site in result} == set(expected)
    for site, x in result.items():
        assert torch.equal(x, torch.cat(expected[site.name])), site.name
        assert not x.is_inference()


def by_whole_passes(model, stages, data, sizes):
    """GPTQ as defined: for each stage a pass of the whole model, all Hessians of the stage, then its weights."""
    for stage in stages:
        hessians = {site.name: HessianAccumulator(linear_of(model, site).weight.shape[1]) for site in stage}

        def add(site, x, hessians=hessians):
            hessians[site.name].add(activation_of(model, site)(x))

        observe_inputs(model, stage, data, add)
        for site in stage:
            weight = linear_of(model, site).weight.detach()
            quantize_site(
                model,
                site,
                weight=gptq(weight, hessians[site.name].hessian, bits=BITS, group_size=sizes[site.name]),
            )


@pytest.mark.parametrize(
    "name", ["flux", "latte", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hunyuan-dit", "lumina2"))]
)
@pytest.mark.parametrize("sequential", [True, False])
def test_gptq_is_that_of_whole_passes(name, sequential):
    model, data = tiny_network(name), batches(name)
    sites = select(model.sites(), roles=CORE_ROLES)
    sizes = site_group_sizes(model, sites, GROUP)
    insert_dynamic(model, sites, bits=8, group_sizes=sizes)
    expected = deepcopy(model)
    by_whole_passes(expected, blocks_of(sites) if sequential else [sites], data, sizes)
    gptq_weights(model, sites, data, bits=BITS, group_sizes=sizes, sequential=sequential)
    for key, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


def test_outputs_are_kept_as_long_as_a_later_block_uses_them():
    """HunyuanDiT's first blocks have skip connections to its last ones, those of SD3 have none."""
    walk = ReplayWalk(tiny_network("hunyuan-dit"), batches("hunyuan-dit"))
    assert walk.last_use == [3, 2, 3, 3]
    walk.go(3)
    kept = [any(isinstance(call[0], torch.Tensor) for call in walk.kept[block]) for block in range(3)]
    assert kept == [True, False, True]
    assert ReplayWalk(tiny_network("sd3"), batches("sd3")).last_use == [1, 1]


@pytest.mark.parametrize("name", ["hunyuan-dit", "latte"])
def test_each_block_runs_a_few_times_whatever_the_depth(name):
    model, data = tiny_network(name), batches(name)
    runs = dict.fromkeys(model.block_paths, 0)
    for path in runs:
        inner = model.get_submodule(f"{path}.ff")

        def count(*_, path=path):
            runs[path] += 1

        inner.register_forward_hook(count)
    list(collect_inputs(model, select(model.sites(), roles=CORE_ROLES), data))
    assert max(runs.values()) <= 2 * len(data) + 1  # the first pass looks at shapes


def test_a_walk_leaves_nothing_behind_and_takes_keywords_only():
    model = tiny_network("flux")
    walk = walk_over(model, batches("flux"))
    walk.go(1)
    with pytest.raises(ConfigError, match="block 0 lies behind block 1"):
        walk.go(0)
    blocks = [model.get_submodule(path) for path in model.block_paths]
    assert not any("forward" in block.__dict__ for block in blocks)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ConfigError, match="takes keyword arguments, found a tuple"):
        walk_over(model, [inputs()])
