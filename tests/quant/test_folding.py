"""Folding leaves the function unchanged and does to the site's input what it says."""

import pytest
import torch

from qdit.core.errors import Unsupported
from qdit.models.roles import select
from qdit.quant.folding import fold, mix_values
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
