"""TQ-DiT: groups of steps, multi-region quantizers where they belong, and what each option switches off."""

import pytest
import torch

from baselines import tq_dit
from baselines.tq_dit import TqDitOptions, time_groups
from qdit.methods.quantize import quantize_model
from qdit.models.roles import select
from qdit.quant.activation import StaticActivation
from qdit.quant.checkpoint import load_checkpoint, quantized_sites, save_checkpoint
from qdit.quant.fisher import sensitivities
from qdit.quant.nonlinear import TwinGeluActivation
from qdit.quant.temporal import TwinSoftmaxActivation
from qdit.sampling.protocol import Protocol
from qdit.sampling.schedule import respaced
from tests.small_models import TINY, calibration_set, inputs, random_dit

PAPER = calibration_set("per-step", samples=32, protocol=Protocol(steps=250, cfg_scale=1.5))
SMALL = calibration_set("per-step", samples=4)


def quantized(data=SMALL, *, scope="common", bits=(6, 6), **options):
    return quantize_model(
        random_dit(),
        "tq-dit",
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration={"per-step": data},
        options={"per_group": 4, "rounds": 1, **options},
    )


def softmax_quantizers(model):
    return [model.get_submodule(site.name).activation for site in select(model.sites(), roles=("p",))]


def test_ten_groups_of_250_steps_have_25_steps_each():
    data, group = time_groups(PAPER, TqDitOptions())
    assert len(data) == len(group) == 320 and torch.bincount(group).tolist() == [32] * 10
    position = torch.searchsorted(torch.from_numpy(respaced(250).timesteps), data.timestep)
    for number in range(10):
        steps = position[group == number]
        assert steps.min() == 25 * number and steps.max() == 25 * number + 24
    assert 0.3 < (data.label == TINY.null_class).float().mean() < 0.7, "both branches of guidance"


def test_samples_of_a_group_are_all_there_are_where_more_are_asked_for():
    data, group = time_groups(SMALL, TqDitOptions(groups=4, per_group=1000))
    assert len(data) == len(SMALL) and torch.bincount(group).tolist() == [16] * 4


@pytest.mark.parametrize(("groups", "expected"), [(1, 1), (3, 3), (8, 8), (10, 8)])
def test_the_quantizers_table_has_the_groups_of_the_calibration_data(groups, expected):
    """With fewer steps than groups every step is a group."""
    data, group = time_groups(SMALL, TqDitOptions(groups=groups))
    own = {int(t): int(g) for t, g in zip(data.timestep, group, strict=True)}
    assert set(own.values()) == set(range(expected))
    for quantizer in softmax_quantizers(quantized(groups=groups).model):
        assert quantizer.split.shape == (expected,)
        assert {int(t): int(r) for t, r in zip(quantizer.table.timesteps, quantizer.table.rows, strict=True)} == own


def test_boundaries_of_the_groups_survive_saving_and_loading(tmp_path):
    """250 steps, 10 groups: the split changes between steps 25 i − 1 and 25 i and nowhere else."""
    made = quantized(PAPER, rounds=0)
    with torch.no_grad():
        for quantizer in softmax_quantizers(made.model):
            quantizer.split.copy_(torch.arange(1.0, 11.0) / 16)
    save_checkpoint(tmp_path, made, {})
    loaded = load_checkpoint(tmp_path).model
    for quantizer in softmax_quantizers(loaded):
        assert quantizer.table.context is loaded.step_context
        loaded.step_context.timestep = torch.from_numpy(respaced(250).timesteps)
        splits = quantizer.table.lookup(quantizer.split, 1)
        assert torch.equal(splits, torch.arange(1.0, 11.0).repeat_interleave(25) / 16)
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs()), made.model(*inputs()))


def test_multi_region_quantizers_are_at_softmax_and_gelu_and_can_be_switched_off():
    for mrq in (True, False):
        model = quantized(mrq=mrq, scope="own").model
        gelu = [model.get_submodule(site.name).activation for site in select(model.sites(), roles=("fc2",))]
        kinds = {type(quantizer) for quantizer in (*softmax_quantizers(model), *gelu)}
        assert kinds == ({TwinSoftmaxActivation, TwinGeluActivation} if mrq else {StaticActivation})
        others = set(quantized_sites(model)) - {
            s.name for s in select(model.sites(), roles=("p", "fc2", "patch_embed"))
        }
        assert {type(model.get_submodule(name).activation) for name in others} == {StaticActivation}


def test_granularities_are_those_of_the_paper():
    model = quantized(scope="own").model
    for site in model.sites():
        module = model.get_submodule(site.name)
        if site.role == "qkv":
            assert len(module.scale.unique()) <= 3 and module.scale.shape == (144, 1)
            assert all(len(part.unique()) == 1 for part in module.scale.split(48))
        elif site.role in ("attn_out", "fc1", "fc2", "final"):
            assert module.scale.shape == (1, 1)
        elif site.role == "patch_embed":
            assert module.scale.shape == (48, 1) and module.activation is None
        elif site.role in ("q", "k", "v"):
            assert module.activation.per == "head" and module.activation.scale.shape == (TINY.num_heads,)
    touched = {site.role for site in model.sites() if site.name in quantized_sites(model)}
    assert touched == {"patch_embed", "qkv", "q", "k", "p", "v", "attn_out", "fc1", "fc2", "final"}
    narrow = quantized_sites(quantized().model)
    assert {site.role for site in model.sites() if site.name in narrow} == {"qkv", "p", "attn_out", "fc1", "fc2"}


def damage(model):
    with torch.inference_mode():
        full = random_dit()(*inputs())
        return float((model(*inputs()) - full).norm() / full.norm())


def test_the_search_is_better_than_its_start_and_the_released_forms_are_worse():
    searched = damage(quantized(rounds=2).model)
    assert searched < damage(quantized(rounds=0).model)
    assert searched < damage(quantized(rounds=2, twin="sum").model)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_released_gradients_are_rounding_noise(dtype, share):
    """Exactly computed, the gradient of a divergence from itself is zero: what is left shrinks with the precision."""
    model = random_dit().to(dtype)
    sites = select(model.sites(), roles=("fc1",))
    batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in inputs())
    sizes = {
        fisher: [s.gradient.norm() for s in sensitivities(model, sites, [batch], fisher=fisher).values()]
        for fisher in ("kl", "gauss-newton")
    }
    assert all(0 < kl < share * useful for kl, useful in zip(sizes["kl"], sizes["gauss-newton"], strict=True))


def test_the_option_decides_which_gradients_the_search_sees(monkeypatch):
    asked_for = []
    original = tq_dit.sensitivities

    def recorded(*arguments, fisher, **options):
        asked_for.append(fisher)
        return original(*arguments, fisher=fisher, **options)

    monkeypatch.setattr(tq_dit, "sensitivities", recorded)
    quantized()
    quantized(fisher="kl")
    assert set(asked_for[: len(asked_for) // 2]) == {"gauss-newton"} and set(asked_for[len(asked_for) // 2 :]) == {"kl"}
