"""Sites of an STDiT3: every one resolvable, replaceable and used, folding exact, quantized copies saved and loaded."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from qdit.core.affine import Granularity
from qdit.core.errors import ConfigError, Unsupported
from qdit.methods.quantize import quantize_model
from qdit.models.dit import ModulatedLayerNorm
from qdit.models.roles import CORE_ROLES, SharedModulation, Site, ValueRows, replace, select
from qdit.models.stdit3 import STDIT3_XL_2, STDiT3
from qdit.quant.activation import DynamicActivation
from qdit.quant.apply import blocks_of, calibrate_static_running, collect_inputs
from qdit.quant.checkpoint import Quantized, load_checkpoint, load_video_checkpoint, save_checkpoint
from qdit.quant.fisher import sensitivities
from qdit.quant.folding import fold, mix_values
from qdit.quant.ranges import minmax
from qdit.quant.sites import prepare_inference, quantize_site
from qdit.quant.weight import QuantizedWeight, quantize_weight
from tests.small_models import random_dit
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs

PER_BLOCK = ("qkv", "q", "k", "p", "v", "attn_out", "cross_q", "cross_kv", "cross_out", "fc1", "fc2")
FOLDABLE = ("qkv", "attn_out", "cross_out", "fc1", "final")


@pytest.fixture
def tiny() -> STDiT3:
    return random_stdit3()


def test_roles_and_counts() -> None:
    with torch.device("meta"):
        sites = STDiT3(STDIT3_XL_2).sites()
    expected = Counter({"modulate": 2 * 56 + 1, **dict.fromkeys(PER_BLOCK, 56), "patch_embed": 1, "final": 1})
    expected.update({"time_embed": 2, "fps_embed": 2, "caption_proj": 2, "t_block": 1})
    assert Counter(site.role for site in sites) == expected
    assert len({site.name for site in sites}) == len(sites)
    assert [site.block for site in select(sites, roles=CORE_ROLES)] == [block for block in range(56) for _ in range(7)]


def test_every_site_is_a_module_of_its_kind_and_every_linear_is_a_site(tiny: STDiT3) -> None:
    kinds = {"linear": nn.Linear, "conv": nn.Conv3d, "operand": nn.Identity, "modulate": ModulatedLayerNorm}
    for site in tiny.sites():
        assert isinstance(tiny.get_submodule(site.name), kinds[site.kind]), site
        parts = site.name.split(".")
        inside = {"spatial_blocks": 0, "temporal_blocks": 1}.get(parts[0])
        assert site.block == (None if inside is None else 2 * int(parts[1]) + inside)
    linears = {name for name, module in tiny.named_modules() if isinstance(module, nn.Linear)}
    assert linears <= {site.name for site in tiny.sites()}


class Counting(nn.Module):
    """Stands in for a site without having any of the attributes of the module it wraps."""

    def __init__(self, inner: nn.Module, calls: list[tuple[str, int]], name: str) -> None:
        super().__init__()
        self.call, self.calls, self.name = inner.forward, calls, name

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.name, len(inputs[0])))
        return self.call(*inputs)


def test_every_site_can_be_replaced_and_is_used_once_in_the_order_of_the_data(tiny: STDiT3) -> None:
    """All of them see the samples of the batch in the first dimension, which per-timestep quantizers need."""
    inputs = video_inputs()
    before = tiny(*inputs)
    calls: list[tuple[str, int]] = []
    for site in tiny.sites():
        replace(tiny, site, Counting(tiny.get_submodule(site.name), calls, site.name))
    torch.testing.assert_close(tiny(*inputs), before, rtol=1e-4, atol=2e-5)
    assert sorted(calls) == sorted((site.name, 3) for site in tiny.sites())
    order = [name for name, _ in calls if not name.endswith((".q", ".k", ".p", ".v"))]
    assert order == [site.name for site in tiny.sites() if site.kind != "operand"]


def test_fold_sources_are_where_they_should_be(tiny: STDiT3) -> None:
    result = Counter((site.role, type(site.fold_source)) for site in tiny.sites() if site.fold_source is not None)
    assert result == {
        ("qkv", SharedModulation): 4,
        ("fc1", SharedModulation): 4,
        ("attn_out", ValueRows): 4,
        ("cross_out", ValueRows): 4,
        ("final", SharedModulation): 1,
    }


def seen_input(model: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Input of a site during a forward pass, and the model's output."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    output = model(*video_inputs())
    handle.remove()
    return seen[0], output


@pytest.mark.parametrize("role", FOLDABLE)
@pytest.mark.parametrize("with_offset", [False, True])
def test_fold_keeps_the_function_and_transforms_the_input(tiny: STDiT3, role: str, with_offset: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    width = TINY_VIDEO.hidden_size
    for site in select(tiny.sites(), roles=[role]):
        for _ in range(2):  # a second factor on top of the first
            factor = torch.exp(0.5 * torch.randn(width, generator=draw))
            offset = torch.randn(width, generator=draw) if with_offset else None
            before, output = seen_input(tiny, site.name)
            fold(tiny, site, factor, offset)
            after, folded = seen_input(tiny, site.name)
            expected = before / factor - (0 if offset is None else offset)
            torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
            assert (folded - output).norm() / output.norm() < 1e-4


@pytest.mark.parametrize("role", ["fc2", "cross_q", "cross_kv", "t_block"])
def test_other_sites_cannot_be_folded(tiny: STDiT3, role: str) -> None:
    site = select(tiny.sites(), roles=[role])[0]
    with pytest.raises(Unsupported, match=site.name):
        fold(tiny, site, torch.ones(TINY_VIDEO.hidden_size))


@pytest.mark.parametrize("role", ["attn_out", "cross_out"])
def test_values_can_be_mixed_within_heads(tiny: STDiT3, role: str) -> None:
    before = tiny(*video_inputs())
    mixing = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    site = select(tiny.sites(), roles=[role])[1]
    weight = tiny.get_submodule(site.name).weight.clone()
    mix_values(tiny, site, mixing)
    assert (tiny.get_submodule(site.name).weight - weight).abs().max() > 0.1
    after = tiny(*video_inputs())
    assert (after - before).norm() / before.norm() < 1e-4


def quantized(model: STDiT3, **options: object) -> Quantized:
    """W4A8, groups of 4, all seven linears of all blocks."""
    given = {"group_size": 4, "activation": "dynamic", **options}
    return quantize_model(model, "rtn", weight_bits=4, activation_bits=8, calibration={"trajectory": []}, options=given)


def eight_bits(model: STDiT3, site: Site) -> QuantizedWeight:
    """A site's weight in 8 bits per output channel."""
    weight = model.get_submodule(site.name).weight.flatten(1)
    return quantize_weight(weight, bits=8, granularity=Granularity("channel"), ranges=minmax)


def test_a_quantized_and_folded_copy_is_saved_and_loaded_to_the_same_bits(tmp_path: Path, tiny: STDiT3) -> None:
    for site in select(tiny.sites(), roles=("qkv", "final")):
        fold(tiny, site, torch.linspace(0.5, 2, 24), torch.linspace(-1, 1, 24))
    made = quantized(tiny)
    patch = select(tiny.sites(), roles=("patch_embed",))[0]
    quantize_site(made.model, patch, weight=eight_bits(tiny, patch))
    save_checkpoint(tmp_path, made, {})
    loaded = load_video_checkpoint(tmp_path)
    inputs = video_inputs()
    with torch.inference_mode():
        expected = made.model(*inputs)
        assert torch.equal(loaded.model(*inputs), expected)
        assert (expected - tiny(*inputs)).norm() / expected.norm() > 1e-3
        assert (tiny(*inputs) - random_stdit3()(*inputs)).norm() / expected.norm() < 1e-4
    assert loaded.config["model"]["family"] == "stdit3"
    names = {site.name for site in select(tiny.sites(), roles=CORE_ROLES)}
    assert names < set(loaded.config["sites"])


def test_checkpoints_of_the_other_family_are_refused_in_words(tmp_path: Path, tiny: STDiT3) -> None:
    save_checkpoint(tmp_path / "video", Quantized(tiny), {})
    save_checkpoint(tmp_path / "image", Quantized(random_dit()), {})
    with pytest.raises(ConfigError, match="video model"):
        load_checkpoint(tmp_path / "video")
    with pytest.raises(ConfigError, match="image model"):
        load_video_checkpoint(tmp_path / "image")


def test_quantized_convolution_over_clips_equals_the_plain_one_at_many_bits(tiny: STDiT3) -> None:
    site = select(tiny.sites(), roles=("patch_embed",))[0]
    inputs = video_inputs()
    before = tiny(*inputs)
    activation = DynamicActivation(bits=8, group_size=None, sharing="tensor")
    quantize_site(tiny, site, weight=eight_bits(tiny, site), activation=activation)
    assert 0 < (tiny(*inputs) - before).norm() / before.norm() < 0.05


def test_inference_form_agrees(tiny: STDiT3) -> None:
    inputs = video_inputs()
    for model in (tiny, quantized(tiny).model):
        with torch.inference_mode():
            before = model(*inputs)
            torch.testing.assert_close(prepare_inference(model)(*inputs), before, rtol=1e-4, atol=1e-4)


def test_calibration_verbs_run_on_every_site(tiny: STDiT3) -> None:
    sites = select(tiny.sites(), kinds=("linear", "conv", "operand"))
    assert len(blocks_of(sites)) == 1 + 2 * TINY_VIDEO.depth
    batches = [video_inputs(seed=seed) for seed in (1, 2)]
    result = dict(collect_inputs(tiny, sites, batches))
    assert all(len(x) == 6 for x in result.values()) and len(result) == len(sites)
    calibrate_static_running(tiny, sites, batches, bits=8)
    assert torch.isfinite(tiny(*batches[0])).all()


def test_sensitivities_reach_every_linear(tiny: STDiT3) -> None:
    sites = select(tiny.sites(), roles=CORE_ROLES)
    result = sensitivities(tiny, sites, [video_inputs()], fisher="gauss-newton")
    assert all(result[site.name].gradient.abs().max() > 0 for site in sites)
