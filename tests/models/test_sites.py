"""Sites: every one resolvable and replaceable, and the fold sources name the right rows."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from qdit.models.dit import DIT_XL_2_256, DiT, ModulatedLayerNorm
from qdit.models.roles import CORE_ROLES, ModulationRows, ValueRows, replace, select

PER_BLOCK = ("adaln", "qkv", "q", "k", "p", "v", "attn_out", "fc1", "fc2")
ONCE = ("patch_embed", "label_embed", "final_adaln", "final")


def test_roles_and_counts() -> None:
    with torch.device("meta"):
        model = DiT(DIT_XL_2_256)
    sites = model.sites()
    expected = Counter({"time_embed": 2, "modulate": 2 * 28 + 1, **dict.fromkeys(PER_BLOCK, 28)})
    expected.update(dict.fromkeys(ONCE, 1))
    assert Counter(site.role for site in sites) == expected
    assert len({site.name for site in sites}) == len(sites)
    core = select(sites, roles=CORE_ROLES)
    assert [s.role for s in core[:4]] == ["qkv", "attn_out", "fc1", "fc2"]
    assert [s.block for s in core] == [index for index in range(28) for _ in range(4)]


def test_every_site_resolves_to_a_module_of_its_kind(small) -> None:
    kinds = {"linear": nn.Linear, "conv": nn.Conv2d, "embedding": nn.Embedding, "operand": nn.Identity}
    for site in small.sites():
        module = small.get_submodule(site.name)
        assert isinstance(module, kinds.get(site.kind, ModulatedLayerNorm)), site
        assert site.block == (int(site.name.split(".")[1]) if site.name.startswith("blocks.") else None)


def test_every_linear_is_a_site(small) -> None:
    linears = {name for name, module in small.named_modules() if isinstance(module, nn.Linear)}
    assert linears <= {site.name for site in small.sites()}


def test_selection_by_role_and_kind(small) -> None:
    assert select(small.sites()) == small.sites()
    assert {s.role for s in select(small.sites(), kinds=("operand",))} == {"q", "k", "p", "v"}
    assert select(small.sites(), roles=("qkv",), kinds=("conv",)) == []


class Counting(nn.Module):
    """Stands in for a site without having any of the attributes of the module it wraps."""

    def __init__(self, inner: nn.Module, calls: list[str], name: str) -> None:
        super().__init__()
        self.call, self.calls, self.name = inner.forward, calls, name

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.name)
        return self.call(*inputs)


def test_every_site_can_be_replaced_and_is_used_once(small, batch) -> None:
    inputs = batch(small.config)
    before = small(*inputs)
    calls: list[str] = []
    for site in small.sites():
        replace(small, site, Counting(small.get_submodule(site.name), calls, site.name))
    torch.testing.assert_close(small(*inputs), before, rtol=1e-4, atol=2e-5)
    assert sorted(calls) == sorted(site.name for site in small.sites())


def factors(size: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(5)) * 3 + 0.3


def foldable(model: DiT) -> list:
    return [site for site in model.sites() if site.fold_source is not None]


def test_fold_sources_are_where_they_should_be(small) -> None:
    result = Counter((site.role, type(site.fold_source)) for site in foldable(small))
    assert result == {
        ("qkv", ModulationRows): 3,
        ("fc1", ModulationRows): 3,
        ("attn_out", ValueRows): 3,
        ("final", ModulationRows): 1,
    }


@pytest.mark.parametrize("role", ["qkv", "fc1", "attn_out", "final"])
def test_folding_a_factor_leaves_the_function_unchanged(small, batch, role: str) -> None:
    """Divide the source rows by k (of 1 + scale and shift, or of V) and multiply the linear's columns by k."""
    inputs = batch(small.config)
    before = small(*inputs)
    halfway = copy.deepcopy(small)
    for site in select(foldable(small), roles=(role,)):
        linear = small.get_submodule(site.name)
        k = factors(linear.in_features)
        linear.weight *= k
        halfway.get_submodule(site.name).weight *= k
        source = site.fold_source
        rows = small.get_submodule(source.linear)
        if isinstance(source, ValueRows):
            rows.weight[slice(*source.rows)] /= k[:, None]
            rows.bias[slice(*source.rows)] /= k
        else:
            for part, one in ((source.shift, 0.0), (source.scale, 1.0)):
                rows.weight[slice(*part)] /= k[:, None]
                rows.bias[slice(*part)] = (rows.bias[slice(*part)] + one) / k - one
    torch.testing.assert_close(small(*inputs), before, rtol=1e-3, atol=1e-4)
    assert (halfway(*inputs) - before).abs().max() > 0.1
