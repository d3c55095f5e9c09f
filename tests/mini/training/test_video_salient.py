"""The salient form of a video model: the same function, official keys, channels that stand out."""

import pytest
import torch

from qdit.mini.training.salient import SalientConfig
from qdit.mini.training.video_salient import fold_everywhere, make_salient_video
from qdit.models.roles import linear_of, select
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs

CONFIG = SalientConfig(fraction_activation=0.1, fraction_weight=0.1)


def inputs_of(model, role, batch):
    """What the linears of a role see, per channel: (blocks, channels) largest absolute values."""
    seen, hooks = [], []
    for site in select(model.sites(), roles=(role,)):
        layer = linear_of(model, site)
        keep = lambda _, given: seen.append(given[0].flatten(0, -2).abs().amax(0))  # noqa: E731
        hooks.append(layer.register_forward_pre_hook(keep))
    with torch.inference_mode():
        output = model(*batch)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen), output


@pytest.mark.parametrize("role", ["qkv", "fc1", "attn_out"])
def test_the_function_stays_and_channels_stand_out(role):
    natural, batch = random_stdit3(), video_inputs()
    salient = make_salient_video(natural, CONFIG)
    (before, expected), (after, found) = inputs_of(natural, role, batch), inputs_of(salient, role, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert (after / before).amax() > 1.5 and (after / before).amin() < 0.9
    assert set(salient.state_dict()) == set(natural.state_dict())


def test_one_factor_serves_all_blocks_and_gates_stay():
    model, batch = random_stdit3(), video_inputs()
    factor = torch.linspace(0.5, 2, TINY_VIDEO.hidden_size)
    before, _ = inputs_of(model, "qkv", batch)
    table = model.spatial_blocks[0].scale_shift_table.clone()
    fold_everywhere(model, "qkv", factor)
    after, _ = inputs_of(model, "qkv", batch)
    assert torch.allclose(after * factor, before, rtol=1e-4, atol=1e-5)
    changed = (model.spatial_blocks[0].scale_shift_table != table).any(dim=1)
    assert changed.tolist() == [True, True, False, False, False, False]


def test_equal_parameters_give_equal_weights_and_the_model_is_left_alone():
    natural = random_stdit3()
    before = {key: tensor.clone() for key, tensor in natural.state_dict().items()}
    one, other = (make_salient_video(natural, CONFIG).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert all(torch.equal(before[key], tensor) for key, tensor in natural.state_dict().items())
