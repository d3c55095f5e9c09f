"""PTQ4DM: pairs of the release, bits of the first and last layer, one static range per tensor."""

import torch

from qdit.methods.quantize import quantize_model
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import StaticActivation
from qdit.quant.checkpoint import quantized_sites
from tests.small_models import calibration_set, random_dit

DATA = calibration_set("ndtc")


def quantized(*, bits=(4, 6), scope="common", data=DATA, **options):
    return quantize_model(
        random_dit(),
        "ptq4dm",
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration={data.kind: data},
        options=options,
    ).model


def test_the_released_pairs_change_ranges_and_not_weights():
    released = calibration_set("ndtc-released")
    one, other = quantized().state_dict(), quantized(data=released, as_released=True).state_dict()
    changed = {key for key in one if not torch.equal(one[key], other[key])}
    assert changed and all(".activation." in key for key in changed)


def test_the_first_and_last_layer_and_softmax_outputs_keep_eight_bits():
    model = quantized(bits=(4, 6), scope="own")
    assert len(quantized_sites(model)) == len(select(model.sites(), kinds=("linear", "conv", "operand")))
    for site in select(model.sites(), kinds=("linear", "conv", "operand")):
        module = model.get_submodule(site.name)
        edge = site.role in ("patch_embed", "final")
        assert module.activation.bits == (8 if edge or site.role == "p" else 6)
        if site.kind != "operand":
            assert module.weight_bits == (8 if edge else 4)


def test_every_input_has_one_static_range_that_contains_zero():
    model = quantized()
    for site in select(model.sites(), roles=CORE_ROLES):
        quantizer = model.get_submodule(site.name).activation
        assert isinstance(quantizer, StaticActivation) and quantizer.scale.numel() == 1
        assert 0 <= int(quantizer.zero_point) <= 63


def test_searching_zero_points_too_finds_other_ranges():
    data = calibration_set("ndtc", samples=2)
    one, two = (quantized(bits=(16, 3), data=data, two_dimensional=both) for both in (False, True))
    name = "blocks.0.mlp.fc2.activation"
    assert int(one.get_submodule(name).zero_point) in (3, 4), "a symmetric range has its zero in the middle"
    assert int(two.get_submodule(name).zero_point) < 3, "GELU outputs are mostly positive"
