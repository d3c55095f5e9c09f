"""Q-Diffusion and PTQD: learned rounding and scales, and the correction on top."""

import pytest
import torch

from baselines.ptqd import fit
from qdit.core.errors import ConfigError
from qdit.methods.quantize import load_base, quantize_model
from qdit.methods.registry import find_method
from qdit.models.roles import select
from qdit.quant.checkpoint import save_checkpoint
from qdit.quant.correction import fit_correction
from qdit.sampling.batch import sample_images
from qdit.sampling.guidance import denoiser
from qdit.sampling.protocol import Protocol
from tests.small_models import TINY, calibration_set, random_dit

BEFORE = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"]
DATA = calibration_set("per-step", samples=8)
IMAGES = calibration_set("regression", samples=8)


def quantized(name="q-diffusion", *, bits=(3, 8), scope="common", **options):
    return quantize_model(
        random_dit(),
        name,
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration={"per-step": DATA, "regression": IMAGES},
        options={"iterations": 0, "batch": 16, **options},
    )


def damage(made):
    x, timestep, label = DATA.x, DATA.timestep, DATA.label
    with torch.inference_mode():
        full = random_dit()(x, timestep, label)
        return float((made.model(x, timestep, label) - full).norm() / full.norm())


def test_reconstruction_lowers_the_models_error_and_leaves_a_log():
    plain, learned = quantized(), quantized(iterations=100, rate=1e-2)
    assert damage(learned) < 0.9 * damage(plain)
    assert plain.log == {} and set(learned.log) == {"reconstruction", "scales"}
    assert learned.log["reconstruction"]["iterations"] == 100 and learned.log["scales"]["iterations"] == 25
    assert all(unit["after"] < unit["before"] for unit in learned.log["reconstruction"]["units"])


@pytest.mark.parametrize(("bits", "parts"), [((4, 16), {"reconstruction"}), ((16, 4), {"scales"})])
def test_only_what_has_few_bits_is_learned(bits, parts):
    assert set(quantized(bits=bits, iterations=4).log) == parts


def test_the_first_and_last_layer_and_softmax_outputs_keep_eight_bits():
    model = quantized(bits=(4, 6), scope="own").model
    for site in select(model.sites(), kinds=("linear", "conv", "operand")):
        module = model.get_submodule(site.name)
        edge = site.role in ("patch_embed", "final")
        assert module.activation.bits == (8 if edge or site.role == "p" else 6)
        if site.kind != "operand":
            assert module.weight_bits == (8 if edge else 4)


def test_ptqd_is_q_diffusion_with_a_correction_of_every_step():
    base, made = quantized(), quantized("ptqd")
    state = made.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in base.model.state_dict().items())
    assert base.correction is None and made.correction.steps == 8
    assert made.correction.bias.shape == (8, TINY.in_channels)
    assert (made.correction.slope >= 0).all() and (made.correction.residual > 0).all()


def test_ptqd_can_start_from_the_checkpoint_of_its_base():
    method = find_method("ptqd")
    assert method.base == "q-diffusion"
    made = method.correct(random_dit(), quantized(), {"regression": IMAGES}, method.Options())
    expected = quantized("ptqd").correction.tensors()
    assert all(torch.equal(value, expected[key]) for key, value in made.correction.tensors().items())


def test_the_correction_is_fitted_to_guided_predictions_of_conditional_samples():
    """A model whose error is known: its noise is (1 + 0.2) ε + 0.3, whatever the guidance."""
    full, wrong = random_dit(), random_dit()
    with torch.no_grad():
        linear = wrong.final_layer.linear
        rows = torch.arange(len(linear.bias)).view(-1, 2)[:, 0]  # the noise channel of every pixel of a patch
        linear.weight[rows] *= 1.2
        linear.bias[rows] = 1.2 * linear.bias[rows] + 0.3
    found = fit(full, wrong, IMAGES)
    torch.testing.assert_close(found.slope, torch.full((8,), 0.2), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.bias, torch.full((8, 1), 0.3), rtol=1e-3, atol=1e-3)
    assert (found.residual < 1e-6).all()
    images = IMAGES.at_step(3)
    with torch.inference_mode():
        exact, own = (denoiser(m, images.label, 1.5)(images.x, images.timestep)[:, :1] for m in (full, wrong))
    torch.testing.assert_close(found.apply(own, 3), exact, rtol=1e-3, atol=1e-3)


def test_the_correction_brings_predictions_closer_at_every_step():
    made = quantized("ptqd", bits=(2, 8))
    images = IMAGES
    for step in range(8):
        part = images.at_step(step)
        with torch.inference_mode():
            exact, own = (
                denoiser(m, part.label, 1.5)(part.x, part.timestep)[:, :1] for m in (random_dit(), made.model)
            )
        before, after = (own - exact).square().mean(), (made.correction.apply(own, step) - exact).square().mean()
        assert after <= before * (1 + 1e-5)


def test_the_released_regression_has_the_mean_error_as_its_bias():
    """Of an error 0.2 ε + 0.3 the mean is 0.3 + 0.2 mean(ε), and what is left keeps the bias."""
    images = IMAGES.at_step(3)
    with torch.inference_mode():
        exact = denoiser(random_dit(), images.label, 1.5)(images.x, images.timestep)[:, :1]
    own = 1.2 * exact + 0.3
    slope, bias, residual = fit_correction(exact, own, intercept=False)
    assert slope == pytest.approx(0.2, abs=1e-3)
    assert float(bias) == pytest.approx(0.3 + 0.2 * float(exact.mean()), abs=1e-3) and abs(float(exact.mean())) > 0.05
    assert residual < 1e-6, "of one channel: the deviation of a sample does not see a constant"
    two = torch.cat([exact, exact], dim=1)
    _, _, residual = fit_correction(two, two + torch.tensor([0.5, -0.5])[:, None, None], intercept=False)
    assert float(residual) == pytest.approx(0.25, rel=0.02), "of several channels their biases count as noise"


def test_the_released_forms_are_options():
    released = quantized("ptqd", bits=(4, 8), scope="own", base_form="as_released", correction="as_released")
    plain = quantized("ptqd", bits=(4, 8), scope="own")
    for site in select(plain.model.sites(), kinds=("linear", "conv")):
        assert released.model.get_submodule(site.name).scale.numel() == 1, site
        assert (
            plain.model.get_submodule(site.name).scale.shape[0] == plain.model.get_submodule(site.name).weight.shape[0]
        )
    operands = select(plain.model.sites(), kinds=("operand",))
    assert operands and not any(hasattr(released.model.get_submodule(site.name), "activation") for site in operands)
    assert not torch.equal(released.correction.bias, plain.correction.bias)


def test_the_released_edges_have_the_bits_of_the_others():
    model = quantized(bits=(4, 6), scope="own", edges="as_released").model
    for site in select(model.sites(), roles=("patch_embed", "final")):
        module = model.get_submodule(site.name)
        assert (module.weight_bits, module.activation.bits) == (4, 6)


def test_weights_per_tensor_learn_their_rounding_too():
    made = quantized("ptqd", scope="own", base_form="as_released", iterations=40, rate=1e-2)
    assert all(unit["after"] < unit["before"] for unit in made.log["reconstruction"]["units"])
    units = ["t_embedder.mlp.0", "t_embedder.mlp.2", "blocks.0", "blocks.1", "final_layer"]
    for part in ("reconstruction", "scales"):
        assert [unit["name"] for unit in made.log[part]["units"]] == units, "the patch embedding is left out"
    nearest = quantized("ptqd", scope="own", base_form="as_released").model.final_layer
    final = made.model.final_layer
    assert torch.equal(final.linear.codes, nearest.linear.codes), "and so is the last linear"
    assert not torch.equal(final.adaLN_modulation[1].codes, nearest.adaLN_modulation[1].codes)


def test_layers_outside_the_blocks_are_reconstructed_in_both_passes():
    log = quantized(scope="own", iterations=4).log
    for part in ("reconstruction", "scales"):
        names = [unit["name"] for unit in log[part]["units"]]
        assert names == [
            "x_embedder.proj",
            "t_embedder.mlp.0",
            "t_embedder.mlp.2",
            "blocks.0",
            "blocks.1",
            "final_layer",
        ]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sampling_uses_the_correction(sampler):
    made, protocol = quantized("ptqd"), Protocol(sampler, steps=8, cfg_scale=1.5)
    with_it, _ = sample_images(made.model, protocol, range(2), correction=made.correction)
    without, _ = sample_images(made.model, protocol, range(2))
    assert not torch.allclose(with_it, without, rtol=1e-2)


def test_the_base_of_ptqd_shares_its_options_and_data_as_far_as_it_has_them(tmp_path):
    """`correction` and the images of the regression are PTQD's own; another number of iterations is another model."""
    record = {
        "method": "q-diffusion",
        "options": {"iterations": 0, "batch": 16},
        "calibration_sha256": {"per-step": "a"},
    }
    save_checkpoint(tmp_path, quantized(), record)
    own = {"options": {**record["options"], "correction": "as_released"}}
    own["calibration_sha256"] = {"per-step": "a", "regression": "b"}
    assert load_base(tmp_path, find_method("ptqd"), own).correction is None
    for part in ({"options": {"iterations": 5}}, {"calibration_sha256": {"per-step": "c", "regression": "b"}}):
        with pytest.raises(ConfigError, match="give another checkpoint"):
            load_base(tmp_path, find_method("ptqd"), own | part)
