"""What methods do at the places of an STDiT3 that a DiT does not have."""

import pytest
import torch

from qdit.core.errors import Unsupported
from qdit.methods.quantize import quantize_model
from qdit.models.roles import select
from qdit.quant.checkpoint import quantized_sites
from qdit.quant.layers import TEMPORAL_ROLES
from qdit.quant.sites import FoldedLayerNorm
from qdit.quant.temporal import TimestepStaticActivation
from qdit.sampling.rectified_flow import guided_velocity
from tests.small_video_models import FLOW, random_stdit3, video_calibration_set

DATA = {kind: video_calibration_set(kind, samples=4) for kind in ("trajectory", "ndtc", "per-step", "regression")}


def quantized(method, *, bits=(4, 8), scope="own", model=None, **options):
    return quantize_model(
        random_stdit3() if model is None else model,
        method,
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration=DATA,
        options=options,
    )


@pytest.mark.parametrize("method", ["q-dit", "g4w+p4a"])
def test_the_shared_modulation_takes_the_place_of_adaln(method):
    model = quantized(method, group_size=8).model
    module = model.get_submodule("t_block.1")
    assert (module.weight_bits, module.activation, tuple(module.scale.shape)) == (4, None, (144, 3))
    assert "t_block.1" not in quantized_sites(quantized(method, scope="common", group_size=8).model)


def test_the_temporal_block_has_a_range_for_every_timestep_of_the_flow():
    model = quantized("tfmq-dm", scope="common", iterations=0).model
    temporal = select(model.sites(), roles=TEMPORAL_ROLES)
    assert {site.role for site in temporal} == {"time_embed", "fps_embed", "t_block"}
    for site in temporal:
        quantizer = model.get_submodule(site.name).activation
        assert isinstance(quantizer, TimestepStaticActivation)
        assert quantizer.table.timesteps.tolist() == torch.from_numpy(FLOW.timesteps).float().tolist()


def test_tiar_brings_the_shared_modulation_closer_at_every_timestep_of_the_flow():
    timestep, errors = torch.from_numpy(FLOW.timesteps).float(), []

    def modulation(model):
        with torch.no_grad():
            fps = torch.full_like(timestep, float(FLOW.fps))
            return model.t_block(model.t_embedder(timestep) + model.fps_embedder(fps))

    for tiar in (False, True):
        options = {"iterations": 60 if tiar else 1, "rate": 3e-2, "batch": 8, "tiar": tiar}
        model = quantized("tfmq-dm", bits=(3, 16), scope="common", **options).model
        errors.append(float((modulation(model) - modulation(random_stdit3())).square().sum()))
    assert errors[1] < 0.8 * errors[0]


def test_balanced_inputs_are_folded_into_the_blocks_own_norms_and_both_attentions():
    """At 16 bits nothing is quantized, so the folding alone must leave the function as it was."""
    found = quantized("ptq4dit", bits=(16, 16), scope="common", iterations=0).model
    norms = [module for module in found.modules() if isinstance(module, FoldedLayerNorm)]
    assert len(norms) == 2 * 4, "both norms of four blocks"
    plain = random_stdit3()
    for name in ("attn.qkv", "cross_attn.kv_linear"):
        own, old = (model.get_submodule(f"temporal_blocks.1.{name}").weight for model in (found, plain))
        assert not torch.equal(own[-24:], old[-24:]), "rows of V"
        if name == "cross_attn.kv_linear":
            assert torch.equal(own[:24], old[:24]), "rows of K"


@pytest.mark.parametrize("block", [0, 1])
def test_values_per_token_are_laid_out_like_the_operands(block):
    """V of a self-attention is the last third of qkv, laid out by `heads`: in space (block 0) and in time (block 1)."""
    model, seen = random_stdit3(), {}
    (site,) = [site for site in select(model.sites(), roles=["v"]) if site.block == block]
    attention = model.get_submodule(site.name.rpartition(".")[0])
    attention.v.register_forward_hook(lambda _m, given, _o: seen.update(v=given[0]))
    attention.p = torch.nn.Dropout(0.0)  # anything but an identity, so that the operands are written out
    attention.qkv.register_forward_hook(lambda _m, _g, output: seen.update(qkv=output))
    model(*next(DATA["ndtc"].batches(3)))
    assert torch.equal(attention.heads(seen["qkv"][..., 48:], seen["v"].shape[-2]), seen["v"])


def test_attention_in_space_and_in_time_has_a_scale_per_head_and_a_split_per_group_of_steps():
    made = quantized("tq-dit", bits=(6, 6), per_group=4, rounds=1, groups=4).model
    for site in select(made.sites(), roles=("q", "k", "v")):
        quantizer = made.get_submodule(site.name).activation
        assert quantizer.per == "head" and quantizer.scale.shape == (2,)
    splits = [made.get_submodule(site.name).activation.split for site in select(made.sites(), roles=("p",))]
    assert [split.shape for split in splits] == [(4,)] * 4


def test_weights_that_several_matrices_share_have_a_scale_each():
    made = quantized("tq-dit", scope="common", bits=(6, 16), per_group=4, rounds=1).model
    for site in select(made.sites(), roles=("qkv", "cross_kv")):
        parts = made.get_submodule(site.name).scale.split(24)
        assert len(parts) == (3 if site.role == "qkv" else 2) and all(len(part.unique()) == 1 for part in parts)
        assert len(torch.cat(parts).unique()) == len(parts)


def test_ptqd_corrects_the_guided_velocity():
    made = quantized("ptqd", bits=(3, 8), scope="common", iterations=0)
    assert (made.correction.steps, made.correction.bias.shape) == (8, (8, 3))
    part = DATA["per-step"].conditional().at_step(3)
    full, own = (
        guided_velocity(model, *part.conditions, FLOW)(part.x, part.timestep) for model in (random_stdit3(), made.model)
    )
    before, after = ((velocity - full).square().mean() for velocity in (own, made.correction.apply(own, 3)))
    assert after < before


def test_classes_are_refused_where_there_are_none():
    with pytest.raises(Unsupported, match="prompts instead of class labels"):
        quantized("ptq4dit", first_classes=True, iterations=0)


@pytest.mark.parametrize("method", ["ptq4dit", "q-diffusion"])
def test_layers_outside_the_blocks_of_a_video_model_are_reconstructed_too(method):
    log = quantized(method, bits=(3, 8), iterations=3, batch=4).log["reconstruction"]
    names = [unit["name"] for unit in log["units"]]
    assert names[0] == "x_embedder.proj" and names[-1] == "final_layer"
    assert {"t_block.1", "fps_embedder.mlp.0", "y_embedder.y_proj.fc2", "spatial_blocks.1"} < set(names)
