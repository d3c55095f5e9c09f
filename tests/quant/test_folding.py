"""Folding leaves the function unchanged and does to the site's input what it says."""

import pytest
import torch

from qdit.core.errors import ConfigError, Unsupported
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.apply import round_weights
from qdit.quant.folding import divide_input, fold, mix_values
from qdit.quant.observe import observing
from qdit.quant.sites import split_low_rank, transform_site
from qdit.quant.transforms import Hadamard
from tests.small_models import TINY, inputs, random_dit


def seen_input(model, site, batch):
    """Input of a site during a forward pass."""
    seen = []
    handle = model.get_submodule(site.name).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        output = model(*batch)
    handle.remove()
    return seen[0], output


@pytest.mark.parametrize("role", ["qkv", "attn_out", "fc1", "final"])
@pytest.mark.parametrize("with_offset", [False, True])
def test_fold_keeps_the_function_and_transforms_the_input(role, with_offset):
    model = random_dit()
    batch = inputs()
    for site in select(model.sites(), roles=[role]):
        generator = torch.Generator().manual_seed(3)
        factor = torch.exp(torch.randn(TINY.hidden_size, generator=generator))
        offset = torch.randn(TINY.hidden_size, generator=generator) if with_offset else None
        before, output = seen_input(model, site, batch)
        fold(model, site, factor, offset)
        after, folded = seen_input(model, site, batch)
        expected = before / factor - (0 if offset is None else offset)
        assert torch.allclose(after, expected, rtol=1e-4, atol=1e-4)
        assert (folded - output).norm() / output.norm() < 1e-4


def test_fc2_cannot_be_folded():
    model = random_dit()
    site = select(model.sites(), roles=["fc2"])[0]
    with pytest.raises(Unsupported, match=r"blocks\.0\.mlp\.fc2"):
        fold(model, site, torch.ones(4 * TINY.hidden_size))


def test_mixing_keeps_the_function_and_changes_the_values():
    model, batch = random_dit(), inputs()
    site = select(model.sites(), roles=["attn_out"])[0]
    before, output = seen_input(model, site, batch)
    width = TINY.hidden_size // TINY.num_heads
    mixing = torch.randn(TINY.num_heads, width, width, generator=torch.Generator().manual_seed(0))
    mix_values(model, site, mixing)
    after, mixed = seen_input(model, site, batch)
    heads = before.unflatten(-1, (TINY.num_heads, width))
    expected = torch.einsum("hij,nthj->nthi", mixing, heads).flatten(-2)
    assert torch.allclose(after, expected, rtol=1e-3, atol=1e-4)
    assert (mixed - output).norm() / output.norm() < 1e-4


@pytest.mark.parametrize("with_offset", [False, True])
def test_every_input_can_be_divided_folded_or_online(with_offset):
    """The quantizer of each of the four linears sees x / factor − offset, and the output stays."""
    model, batch = random_dit(), inputs()
    sites = select(model.sites(), roles=CORE_ROLES)
    before, after = {}, {}
    with observing(model, sites, lambda site, x: before.setdefault(site.name, x.clone())):
        output = model(*batch)
    generator, changed = torch.Generator().manual_seed(3), {}
    for site in sites:
        width = linear_of(model, site).weight.shape[1]
        factor = torch.exp(torch.randn(width, generator=generator) / 2)
        offset = torch.randn(width, generator=generator) if with_offset else None
        divide_input(model, site, factor, offset)
        changed[site.name] = before[site.name] / factor - (0 if offset is None else offset)
    with observing(model, sites, lambda site, x: after.setdefault(site.name, x.clone())):
        divided = model(*batch)
    for site in sites:
        assert torch.allclose(after[site.name], changed[site.name], rtol=1e-3, atol=1e-3)
        assert (getattr(linear_of(model, site), "transform", None) is not None) == (site.role == "fc2")
    assert (divided - output).norm() / output.norm() < 1e-5


@pytest.mark.parametrize("done", ["quantized", "transformed", "divided", "source"])
def test_what_is_not_a_whole_weight_any_more_is_not_folded(done):
    model = random_dit()
    site = select(model.sites(), roles=["attn_out"])[0]
    source = next(other for other in model.sites() if other.name == site.fold_source.linear)
    if done in ("quantized", "source"):
        round_weights(model, [site if done == "quantized" else source], bits=8)
    elif done == "transformed":
        transform_site(model, site, Hadamard(TINY.hidden_size, size=16))
    else:
        split_low_rank(model, site, 2)
    for change in (
        lambda: fold(model, site, torch.ones(TINY.hidden_size)),
        lambda: mix_values(model, site, torch.eye(24).repeat(2, 1, 1)),
    ):
        with pytest.raises(ConfigError, match="fold before that"):
            change()
