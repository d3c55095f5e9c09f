"""TFMQ-DM: what its three parts touch, and that each does what it is for."""

import pytest
import torch

from baselines.tfmq_dm import reconstruct_temporal
from qdit.methods.quantize import quantize_model
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import round_weights
from qdit.quant.checkpoint import quantized_sites
from qdit.quant.layers import TEMPORAL_ROLES
from qdit.quant.ranges import shrink_search
from qdit.quant.temporal import TimestepStaticActivation
from qdit.quant.unit_learning import Reconstruction
from qdit.sampling.schedule import respaced
from tests.small_models import calibration_set, random_dit

DATA = calibration_set("per-step", samples=4)


def quantized(*, bits=(4, 8), scope="common", **options):
    return quantize_model(
        random_dit(),
        "tfmq-dm",
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration={"per-step": DATA},
        options={"iterations": 0, "batch": 8, **options},
    )


def kinds(model, roles):
    return {type(model.get_submodule(site.name).activation) for site in select(model.sites(), roles=roles)}


@pytest.mark.parametrize(
    ("fsc", "temporal", "core"),
    [
        ("all", TimestepStaticActivation, TimestepStaticActivation),
        ("tib", TimestepStaticActivation, StaticActivation),
        ("none", StaticActivation, StaticActivation),
    ],
)
def test_finite_sets_are_where_the_option_says(fsc, temporal, core):
    model = quantized(fsc=fsc, scope="own").model
    assert kinds(model, TEMPORAL_ROLES) == {temporal}
    assert kinds(model, (*CORE_ROLES, "q", "k", "p", "v")) == {core}
    for module in model.modules():
        if isinstance(module, TimestepStaticActivation):
            assert module.table.timesteps.tolist() == respaced(8).timesteps.tolist()


def test_the_time_embedding_belongs_to_scope_common_and_the_first_and_last_layers_to_none():
    common, own = quantized().model, quantized(scope="own").model
    assert set(quantized_sites(common)) == {
        s.name for s in select(common.sites(), roles=(*TEMPORAL_ROLES, *CORE_ROLES))
    }
    assert set(quantized_sites(own)) - set(quantized_sites(common)) == {
        site.name for site in select(own.sites(), kinds=("operand",))
    }
    bits = {own.get_submodule(site.name).activation.bits for site in select(own.sites(), roles=("p",))}
    assert bits == {8}


def temporal_outputs(model, timestep, label):
    with torch.no_grad():
        model.step_context.timestep = timestep
        condition = model.t_embedder(timestep) + model.y_embedder(label)
        parts = [*(block.adaLN_modulation for block in model.blocks), model.final_layer.adaLN_modulation]
        return torch.cat([part(condition) for part in parts], dim=1)


def test_tiar_brings_all_projections_closer_at_every_timestep_of_the_schedule():
    timestep = torch.from_numpy(respaced(8).timesteps.copy())
    errors = []
    options = {"bits": (3, 16), "iterations": 150, "rate": 1e-2}
    for tiar in (False, True):
        made = quantized(tiar=tiar, **options)
        assert set(made.log) == ({"temporal", "reconstruction"} if tiar else {"reconstruction"})
        error = 0.0
        for label in DATA.label.unique():
            rows = torch.full_like(timestep, int(label))
            full, own = (temporal_outputs(model, timestep, rows) for model in (random_dit(), made.model))
            error += float((own - full).square().sum())
        errors.append(error)
    assert errors[1] < 0.8 * errors[0]


def test_without_iterations_nothing_is_learned():
    assert quantized().log == {}


def test_blocks_are_reconstructed_without_the_time_embedding():
    rounded, learned = quantized(bits=(3, 16)), quantized(bits=(3, 16), iterations=10, tiar=False, rate=0.3)
    roles = {site.name: site.role for site in rounded.model.sites()}
    changed = {
        roles[key.rpartition(".")[0]]
        for key, value in rounded.model.state_dict().items()
        if not torch.equal(value, learned.model.state_dict()[key])
    }
    assert changed == {"qkv", "attn_out", "fc1", "fc2"}


def test_a_range_per_timestep_serves_temporal_features_better_than_one_range():
    errors = []
    timestep = torch.from_numpy(respaced(8).timesteps.copy())
    label = DATA.at_step(0).label[: len(timestep)]
    for fsc in ("tib", "none"):
        model = quantized(bits=(16, 4), fsc=fsc).model
        full, own = (temporal_outputs(network, timestep, label) for network in (random_dit(), model))
        errors.append(float((own - full).square().sum()))
    assert errors[0] < errors[1]


def test_the_release_leaves_the_first_time_linear_and_the_input_of_the_second_alone():
    released, ours = (quantized(time_embed=form).model for form in ("as_released", "quantized"))
    first, second = (site.name for site in select(ours.sites(), roles=("time_embed",)))
    kept = [(released.get_submodule(name), ours.get_submodule(name)) for name in (first, second)]
    assert type(kept[0][0]) is torch.nn.Linear and kept[0][1].weight_bits == 4
    assert (kept[1][0].weight_bits, kept[1][0].activation) == (4, None) and kept[1][1].activation is not None
    others = set(quantized_sites(ours)) - {first, second}
    assert set(quantized_sites(released)) - {second} == others


@pytest.mark.parametrize(("strength", "moved"), [(1e6, False), (0.0, True)])
def test_the_regularizer_covers_the_projections_too(strength, moved):
    """Where it is strong, every weight of the temporal block, projections included, is rounded to nearest again."""
    model = random_dit()
    sites = select(model.sites(), roles=TEMPORAL_ROLES)
    round_weights(model, sites, bits=4, rule=shrink_search)
    nearest = {site.name: model.get_submodule(site.name).codes.clone() for site in sites}
    config = Reconstruction(30, 8, rounding_rate=0.3, regularization=strength, warmup=0.0, betas=(2.0, 2.0))
    reconstruct_temporal(model, random_dit(), sites, DATA, config)
    for site in sites:
        same = torch.equal(model.get_submodule(site.name).codes, nearest[site.name])
        assert same != moved, site
