"""Quantizers that read the timestep: nearest calibrated timestep for each row, groups of steps, copies and files."""

from copy import deepcopy

import pytest
import torch

from qdit.models.roles import StepContext, select
from qdit.quant.activation import StaticActivation
from qdit.quant.activation_kinds import build_activation
from qdit.quant.checkpoint import Quantized, load_checkpoint, load_video_checkpoint, save_checkpoint
from qdit.quant.nonlinear import twin_softmax
from qdit.quant.sites import quantize_site
from qdit.quant.temporal import TimestepStaticActivation, TimestepTable, TwinSoftmaxActivation
from tests.small_models import inputs, random_dit
from tests.small_video_models import random_stdit3

TIMESTEPS = torch.tensor([0, 111, 500, 999])


def at(*timesteps):
    context = StepContext()
    context.timestep = torch.tensor(timesteps)
    return context


def static(context, bits=4):
    """Four timesteps with scales and zero points of their own."""
    return TimestepStaticActivation(
        bits=bits,
        scale=torch.tensor([0.1, 0.2, 0.4, 0.8]),
        zero_point=torch.tensor([0, 3, 8, 12]),
        timesteps=TIMESTEPS,
        context=context,
    )


def twin(context, mode="piecewise"):
    return TwinSoftmaxActivation(
        bits=4,
        split=torch.tensor([0.5, 0.125]),
        timesteps=TIMESTEPS,
        rows=torch.tensor([0, 0, 1, 1]),
        context=context,
        mode=mode,
    )


@pytest.mark.parametrize(
    ("timestep", "row"),
    [(0, 0), (55, 0), (56, 1), (111, 1), (305, 1), (306, 2), (500, 2), (749, 2), (750, 3), (999, 3)],
)
def test_a_timestep_takes_the_row_of_the_nearest_one(timestep, row):
    """55.5, 305.5 and 749.5 lie half-way; timesteps are whole, so they decide nothing here."""
    table = TimestepTable(TIMESTEPS, torch.arange(4), at(timestep))
    assert table.lookup(torch.tensor([10.0, 11.0, 12.0, 13.0]), 1).tolist() == [10.0 + row]


def test_timesteps_of_a_flow_keep_their_fractions(tmp_path):
    """Two that share their whole part, with ranges of their own, saved and loaded."""
    model = random_stdit3()
    site = select(model.sites(), roles=["time_embed"])[0]
    timesteps, scale = torch.tensor([70.25, 70.75, 999.5]), torch.tensor([0.1, 0.2, 0.4])
    quantizer = TimestepStaticActivation(
        bits=4, scale=scale, zero_point=torch.tensor([8, 8, 8]), timesteps=timesteps, context=model.step_context
    )
    quantize_site(model, site, activation=quantizer)
    save_checkpoint(tmp_path, Quantized(model), {})
    loaded = load_video_checkpoint(tmp_path).model
    for network in (model, loaded):
        table = network.get_submodule(site.name).activation.table
        assert torch.equal(table.timesteps, timesteps) and table.timesteps.dtype == torch.float32
        network.step_context.timestep = timesteps.flip(0)
        assert torch.equal(table.lookup(scale, 1), scale.flip(0))


def test_half_way_takes_the_lower_and_beyond_the_ends_the_last():
    table = TimestepTable(torch.tensor([10, 20, 30]), torch.tensor([2, 1, 0]), at(15, 25, 16, 0, 999))
    assert table.lookup(torch.tensor([3.0, 4.0, 5.0]), 1).tolist() == [5, 4, 4, 5, 3]


def test_a_table_of_one_timestep_serves_all():
    table = TimestepTable(torch.tensor([400]), torch.tensor([0]), at(0, 400, 999))
    assert table.lookup(torch.tensor([7.0]), 3).tolist() == [[[7.0]]] * 3


def test_every_row_of_a_batch_has_its_own_timestep():
    quantizer = static(at(999, 0, 480, 120))
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    for row, index in enumerate((3, 0, 2, 1)):
        plain = StaticActivation(bits=4, scale=quantizer.scale[index], zero_point=quantizer.zero_point[index])
        assert torch.equal(quantizer(x)[row], plain(x[row]))


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 3, 4, 5)])
def test_it_works_on_inputs_of_any_number_of_dimensions(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantizer = static(at(500, 500))
    plain = StaticActivation(bits=4, scale=quantizer.scale[2], zero_point=quantizer.zero_point[2])
    assert torch.equal(quantizer(x), plain(x))


@pytest.mark.parametrize("mode", ["piecewise", "sum"])
def test_twin_softmax_takes_the_split_of_its_group(mode):
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    result = twin(at(0, 100, 450, 999), mode)(x)
    assert torch.equal(result[:2], twin_softmax(x[:2], 0.5, 4, mode=mode))
    assert torch.equal(result[2:], twin_softmax(x[2:], 0.125, 4, mode=mode))


def test_outside_a_forward_pass_it_says_so():
    with pytest.raises(RuntimeError, match="outside the model's forward"):
        static(StepContext())(torch.zeros(1, 4))


@pytest.mark.parametrize("make", [static, twin, lambda context: twin(context, "sum")])
def test_spec_and_tensors_build_the_same_quantizer(make):
    quantizer = make(at(0, 300, 999))
    again = build_activation(quantizer.spec(), quantizer.state_dict(), at(0, 300, 999))
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), quantizer(x)) and again.spec() == quantizer.spec()
    assert set(again.state_dict()) == set(quantizer.state_dict())


def with_temporal_sites():
    """A tiny model with a timestep-dependent quantizer at a linear, an operand and in the time embedding."""
    model = random_dit()
    for role, make in (("fc1", static), ("p", twin), ("time_embed", static)):
        for site in select(model.sites(), roles=(role,)):
            quantize_site(model, site, activation=make(model.step_context))
    return model.requires_grad_(False)


def test_the_models_own_forward_sets_the_timesteps():
    """A batch of mixed timesteps equals its rows one at a time, and another timestep another quantizer."""
    model, (x, timestep, label) = with_temporal_sites(), inputs()
    whole = model(x, timestep, label)
    for row in range(len(x)):
        part = slice(row, row + 1)
        torch.testing.assert_close(model(x[part], timestep[part], label[part]), whole[part], rtol=1e-3, atol=1e-3)
    same = with_temporal_sites()
    for module in same.modules():
        if isinstance(module, TimestepStaticActivation):
            module.scale.copy_(module.scale.flip(0))
    assert (same(x, timestep, label) - whole).abs().max() > 1e-2


def test_a_loaded_model_gives_the_same_bits(tmp_path):
    model, batch = with_temporal_sites(), inputs()
    save_checkpoint(tmp_path, Quantized(model), {})
    loaded = load_checkpoint(tmp_path).model
    assert torch.equal(loaded(*batch), model(*batch))
    tables = [module for module in loaded.modules() if isinstance(module, TimestepTable)]
    assert len(tables) == 6 and all(table.context is loaded.step_context for table in tables)


def test_a_copy_of_a_model_reads_its_own_timesteps():
    model, (x, timestep, label) = with_temporal_sites(), inputs()
    expected = model(x, timestep, label)
    copy = deepcopy(model)
    tables = [module for module in copy.modules() if isinstance(module, TimestepTable)]
    assert all(table.context is copy.step_context for table in tables)
    assert copy.step_context is not model.step_context
    model(x, torch.zeros_like(timestep), label)
    assert torch.equal(copy(x, timestep, label), expected)
