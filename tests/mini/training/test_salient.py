"""The salient form is the same function with a larger spread over channels."""

from pathlib import Path

import pytest
import torch

from qdit.core.seeds import Purpose, generator
from qdit.mini.training.salient import SalientConfig, channel_factors, make_salient
from qdit.models.loading import load_model
from qdit.models.roles import select
from tests.small_models import inputs, random_dit

WEIGHTS = Path(__file__).parents[3] / "weights"


def test_the_function_is_unchanged_and_the_weights_are_not():
    model = random_dit()
    salient = make_salient(model, SalientConfig())
    with torch.inference_mode():
        before, after = model(*inputs()), salient(*inputs())
    assert (after - before).norm() / before.norm() < 1e-4
    assert not torch.equal(model.blocks[0].attn.qkv.weight, salient.blocks[0].attn.qkv.weight)


def test_factors_have_the_stated_fractions_and_directions():
    config = SalientConfig(fraction_activation=0.05, fraction_weight=0.04)
    factors = channel_factors(config, 1000, generator(0, Purpose.SALIENT_FORM))
    assert (factors > 1).sum() == 50 and (factors < 1).sum() == 40 and (factors == 1).sum() == 910


def channel_spread(model, role):
    """Largest over median channel magnitude of the weights of a role."""
    magnitudes = [
        model.get_submodule(site.name).weight.detach().abs().amax(dim=0) for site in select(model.sites(), roles=[role])
    ]
    return max(float(m.max() / m.median()) for m in magnitudes)


@pytest.mark.parametrize("role", ["qkv", "attn_out", "fc1"])
def test_shipped_salient_form_is_the_natural_function_with_salient_channels(role):
    natural = load_model(WEIGHTS / "dit-digits-natural.safetensors")
    salient = load_model(WEIGHTS / "dit-digits-salient.safetensors")
    batch = inputs(natural.config)
    with torch.inference_mode():
        before, after = natural(*batch), salient(*batch)
    assert (after - before).norm() / before.norm() < 5e-3, "float16 storage is the only difference"
    assert channel_spread(salient, role) > 2 * channel_spread(natural, role)
