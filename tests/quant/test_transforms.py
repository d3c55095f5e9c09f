"""Input transforms: the function stays, the quantizer sees T x, and a checkpoint holds all of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.kernels.parts import transformed as transformed_row
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.activation import DynamicActivation
from qdit.quant.apply import collect_inputs, gptq_weights, round_weights
from qdit.quant.checkpoint import Quantized, load_checkpoint, load_video_checkpoint, save_checkpoint
from qdit.quant.gptq import HessianAccumulator, gptq
from qdit.quant.grid_activations import NvFp4Activation
from qdit.quant.grid_weights import nvfp4_weight
from qdit.quant.integer import IntegerLinear, prepare_integer
from qdit.quant.low_rank import LowRank, low_rank
from qdit.quant.packed import keep_packed
from qdit.quant.site_building import build_site
from qdit.quant.site_text import integer_kernel
from qdit.quant.sites import QuantizedLinear, prepare_inference, quantize_site, split_low_rank, transform_site
from qdit.quant.transforms import Chain, Divide, Hadamard, Orthogonal, Shift, hadamard, random_signs
from qdit.sampling.precision import in_dtype, round_linears
from tests.pretended_gpu import pretended_gpu
from tests.small_models import TINY, inputs, random_dit
from tests.small_video_models import random_stdit3, video_inputs


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(*shape, seed=0):
    return torch.linalg.qr(draw(*shape, seed=seed).double()).Q.float()


TRANSFORMS = {
    "divide": lambda width: Divide(draw(width).exp()),
    "shift": lambda width: Shift(draw(width)),
    "hadamard": lambda width: Hadamard(width, size=16),
    "random hadamard": lambda width: Hadamard(
        width, size=8, signs=random_signs(width, torch.Generator().manual_seed(1))
    ),
    "orthogonal": lambda width: Orthogonal(width, orthogonal(width, width)),
    "shared block": lambda width: Orthogonal(width, orthogonal(12, 12)),
    "own blocks": lambda width: Orthogonal(width, orthogonal(width // 12, 12, 12)),
    "chain": lambda width: Chain([Divide(draw(width).exp()), Shift(draw(width)), Hadamard(width, size=4)]),
}


def core(model):
    return select(model.sites(), roles=CORE_ROLES)


def output(model):
    with torch.inference_mode():
        return model(*inputs())


def transformed(kind, *, rank=None):
    model = random_dit()
    for site in core(model):
        made = TRANSFORMS[kind](linear_of(model, site).weight.shape[1])
        transform_site(model, site, list(made.steps()) if isinstance(made, Chain) else made)
        if rank is not None:
            split_low_rank(model, site, rank)
    return model


def quantized(kind="chain", *, rank=4):
    model = transformed(kind, rank=rank)
    for site in core(model):
        quantize_site(model, site, activation=DynamicActivation(bits=8, group_size=16))
    round_weights(model, core(model), bits=4, group_sizes={site.name: 16 for site in core(model)})
    return model


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_without_rounding_the_model_computes_the_same(kind, rank):
    """W T⁻¹ on T x, and W − L1 L2 beside the branch; in both modes of 16 bits."""
    expected = output(random_dit())
    model = transformed(kind, rank=rank)
    assert all(isinstance(linear_of(model, site), QuantizedLinear) for site in core(model))
    assert float((output(model) - expected).norm() / expected.norm()) < 1e-5
    assert float((output(prepare_inference(model)) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_a_layer_computes_w_x_from_t_x(kind):
    """In float64: the absorbed weight and bias against W x + b."""
    transform, weight, bias, x = TRANSFORMS[kind](48), draw(7, 48, seed=2), draw(7, seed=3), draw(5, 48, seed=4)
    new, shifted = transform.absorb(weight, bias)
    expected = x.double() @ weight.double().T + bias.double()
    result = transform(x).double() @ new.double().T + shifted.double()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(power=st.integers(1, 10), blocks=st.integers(1, 3))
def test_the_hadamard_transform_is_the_product_with_its_matrix(power, blocks):
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(power):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    size = 2**power
    x = draw(3, blocks * size, seed=power).double()
    expected = (x.unflatten(-1, (-1, size)) @ (matrix / size**0.5)).flatten(-2)
    torch.testing.assert_close(hadamard(x, size), expected)
    torch.testing.assert_close(hadamard(hadamard(x, size), size), x)


def test_an_orthogonal_matrix_is_applied_as_q_x():
    matrix, x = orthogonal(3, 4, 4), draw(2, 12, seed=1)
    expected = torch.stack([torch.cat([q @ part for q, part in zip(matrix, row.split(4), strict=True)]) for row in x])
    torch.testing.assert_close(Orthogonal(12, matrix)(x), expected)


def test_half_precision_is_transformed_in_float32():
    for kind in TRANSFORMS:
        transform, x = TRANSFORMS[kind](48), draw(5, 48).half()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(transform(x), transform(x.float()))


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_saved_and_loaded_model_gives_the_same_bits(kind, packed, tmp_path):
    model = quantized(kind)
    expected = output(model)
    model = keep_packed(model) if packed else model
    assert torch.equal(output(model), expected)
    save_checkpoint(tmp_path, Quantized(model), {})
    loaded = load_checkpoint(tmp_path).model
    assert torch.equal(output(loaded), expected)
    for site in core(model):
        assert loaded.get_submodule(site.name).spec() == model.get_submodule(site.name).spec()
        assert loaded.get_submodule(site.name).low_rank.up.dtype == torch.float16
    save_checkpoint(tmp_path / "again", Quantized(loaded), {})
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_video_model_holds_every_part(tmp_path):
    model = random_stdit3()
    sites = core(model)
    with torch.inference_mode():
        expected = model(*video_inputs())
        for number, site in enumerate(sites):
            width = linear_of(model, site).weight.shape[1]
            transform_site(model, site, [Shift(draw(width, seed=number)), Hadamard(width, size=4)])
            split_low_rank(model, site, 2)
        assert float((model(*video_inputs()) - expected).norm() / expected.norm()) < 1e-5
        round_weights(model, sites, bits=4)
        save_checkpoint(tmp_path, Quantized(model), {})
        loaded = load_video_checkpoint(tmp_path).model
        assert torch.equal(loaded(*video_inputs()), model(*video_inputs()))
        prepared = prepare_inference(loaded)(*video_inputs())
    assert float((prepared - model(*video_inputs())).norm() / expected.norm()) < 1e-5


def test_diffusers_loads_every_part(tmp_path):
    from diffusers import DiTTransformer2DModel

    from qdit.diffusers import export_checkpoint, from_checkpoint

    model = quantized("chain")
    site = select(model.sites(), roles=["fc2"])[0]
    plain = linear_of(model, site).weight.detach()
    quantize_site(model, site, weight=nvfp4_weight(plain), activation=NvFp4Activation())
    save_checkpoint(tmp_path / "checkpoint", Quantized(model), {"method": "rtn"})
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "export")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "export")
    x, timestep, label = inputs()
    with torch.inference_mode():
        expected = from_checkpoint(tmp_path / "checkpoint")(x, timestep, label).sample
        assert torch.equal(loaded(x, timestep, label).sample, expected)
        assert torch.equal(expected, model(x, timestep, label))


def test_gptq_and_observers_see_the_transformed_input():
    model, batch = transformed("chain", rank=4), inputs()
    site = select(model.sites(), roles=["fc1"])[0]
    transform, weight = linear_of(model, site).transform, linear_of(model, site).weight
    with torch.inference_mode():
        seen = []
        handle = linear_of(model, site).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        model(*batch)
        handle.remove()
        expected = transform(seen[0])
    assert torch.equal(next(x for _, x in collect_inputs(model, [site], [batch])), expected)
    hessian = HessianAccumulator(TINY.hidden_size)
    quantizer = DynamicActivation(bits=8, group_size=None)
    hessian.add(quantizer(expected))
    wanted = gptq(weight, hessian.hessian, bits=4, group_size=None)
    quantize_site(model, site, activation=quantizer)
    gptq_weights(model, [site], [batch], bits=4, group_sizes={site.name: None})
    assert torch.equal(linear_of(model, site).codes, wanted.tensors()["codes"])


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_integer_layers_compute_transform_and_branch_in_the_kernel(kind):
    model = quantized(kind)
    for site in core(model):
        layer = linear_of(model, site)
        integer, x = IntegerLinear(layer), draw(3, 5, layer.shape[1])
        inside = kind not in ("orthogonal", "shared block", "own blocks")
        assert bool(integer.parts.steps) == inside == (integer_kernel(layer.spec()).count("torch") == 0)
        entered = transformed_row(x, integer.parts.steps) if inside else layer.transform(x)
        torch.testing.assert_close(entered, layer.transform(x), rtol=1e-5, atol=1e-5)
        values = layer.activation(entered).double() @ layer.weight.double().T + layer.bias.double()
        up, down = layer.low_rank.up.double(), layer.low_rank.down.double()
        expected = values + entered.double() @ down.T @ up.T
        assert float((integer(x) - expected).norm() / expected.norm()) < 1e-6


def test_integer_mode_is_near_to_simulated_mode_and_survives_saving():
    expected = output(quantized())
    with pytest.raises(AssertionError):
        torch.testing.assert_close(expected, output(random_dit()), rtol=1e-3, atol=1e-3)
    prepared = output(prepare_integer(quantized()))
    assert float((prepared - expected).norm() / expected.norm()) < 5e-3  # a code may flip
    model = quantized()
    for site in core(model):
        layer, x = linear_of(model, site), draw(3, 5, linear_of(model, site).shape[1])
        tensors = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        loaded = build_site(layer.spec(), tensors, model.step_context)
        assert torch.equal(IntegerLinear(loaded)(x), IntegerLinear(layer)(x))


def test_the_gelu_comes_after_the_branch():
    model = quantized()
    expected = output(model)
    torch.testing.assert_close(output(prepare_inference(model)), expected, rtol=2e-2, atol=2e-2)
    plain = quantized()
    mlp = prepare_inference(plain).blocks[0].mlp
    x = draw(2, 5, 48)
    layer = quantized().blocks[0].mlp.fc1
    torch.testing.assert_close(mlp.fc1(x), torch.nn.functional.gelu(layer(x), approximate="tanh"))


def test_a_packed_model_keeps_its_gelu_when_it_is_prepared():
    model = keep_packed(quantized())
    expected = output(model)
    torch.testing.assert_close(output(prepare_inference(model)), expected, rtol=2e-2, atol=2e-2)


def test_a_model_in_half_precision_is_near_to_float32():
    """Transform and quantizer compute in float32, the products in bfloat16."""
    expected = output(quantized())
    model = prepare_inference(round_linears(quantized(), "bfloat16"))
    with torch.inference_mode():
        result = in_dtype(model, "bfloat16")(*inputs())
    assert 0 < float((result - expected).norm() / expected.norm()) < 0.05


def test_everything_moves_with_the_model():
    layer, x = quantized().blocks[0].mlp.fc1, draw(3, 48)
    expected = layer(x)
    for made in (layer, IntegerLinear(layer)):
        with pretended_gpu() as gpu:
            made.to(gpu)
            tensors = [*made.transform.buffers(), *made.low_rank.buffers()]
            assert tensors and {tensor.device for tensor in tensors} == {gpu}
            torch.testing.assert_close(made(x.to(gpu)).cpu(), expected, rtol=2e-3, atol=2e-3)
            made.to("cpu")


def test_a_branch_is_the_best_of_its_rank_and_is_rounded_before_the_residual():
    weight = draw(40, 24)
    branch = low_rank(weight, 6)
    singular = torch.linalg.svdvals(weight.double())
    error = (weight.double() - branch.product().double()).norm()
    assert float(error) == pytest.approx(float(singular[6:].norm()), rel=1e-3)
    assert branch.up.dtype == branch.down.dtype == torch.float16
    full = low_rank(weight, 24).product()
    assert 0 < float((full - weight).abs().max()) < 1e-2
    model = random_dit()
    site = select(model.sites(), roles=["fc2"])[0]
    before = linear_of(model, site).weight.detach().clone()
    made = split_low_rank(model, site, 5)
    assert torch.equal(linear_of(model, site).weight, (before.double() - made.product().double()).float())
    other = split_low_rank(model, site, 3)  # in place of the first: the residual is that of the whole weight
    torch.testing.assert_close(linear_of(model, site).weight + other.product(), before - 0 * before)


def test_a_file_holds_codes_pairs_and_16_bit_factors_and_nothing_else(tmp_path):
    model = random_dit()
    for site in core(model):
        split_low_rank(model, site, 4)
    round_weights(model, core(model), bits=4, group_sizes={site.name: 16 for site in core(model)})
    save_checkpoint(tmp_path, Quantized(model), {})
    from safetensors.torch import load_file

    tensors, expected, result = load_file(tmp_path / "model.safetensors"), 0, 0
    for site in core(model):
        outputs, width = linear_of(model, site).shape
        expected += outputs * width // 2 + 4 * outputs * width // 16 + 2 * 4 * (outputs + width)
        own = {name: t for name, t in tensors.items() if name.startswith(f"{site.name}.") and not name.endswith("bias")}
        result += sum(t.nbytes for t in own.values())
        assert linear_of(model, site).extra_bytes() == {"low_rank": 2 * 4 * (outputs + width)}
    assert result == expected


def test_what_cannot_be_done_is_refused_in_one_line():
    model = random_dit()
    site, conv = select(model.sites(), roles=["fc1"])[0], select(model.sites(), roles=["patch_embed"])[0]
    for make, words in (
        (lambda: Hadamard(144, size=32), r"block size 32 does not fit 144 channels; allowed are \[2, 4, 8, 16\]"),
        (lambda: Hadamard(144, size=12), "block size 12"),
        (lambda: Hadamard(48, size=4, signs=torch.zeros(48)), r"values \+1 or −1"),
        (lambda: Divide(torch.tensor([1.0, 0])), "1 factors are 0"),
        (lambda: Shift(torch.tensor([torch.nan])), "finite"),
        (lambda: Orthogonal(48, torch.eye(5)), "does not fit 48 channels"),
        (lambda: Orthogonal(48, 2 * torch.eye(48)), "differs from I by 3"),
        (lambda: Chain([Shift(draw(3)), Shift(draw(4))]), r"widths \[3, 4\]"),
        (lambda: transform_site(model, site, Hadamard(32, size=4)), "width 32 before a linear with 48 inputs"),
        (lambda: low_rank(draw(4, 3), 4), "rank 4; allowed are 1 to 3"),
        (lambda: LowRank(draw(4, 2), draw(3, 4)), "have no product"),
        (lambda: LowRank(1e6 * draw(4, 2), draw(2, 4)), "float16 ends at 65504"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=words) as problem:
            make()
        assert "\n" not in str(problem.value)
    with pytest.raises(Unsupported, match="only linears have one"):
        transform_site(model, conv, Hadamard(4, size=4))
    with pytest.raises(Unsupported, match="holds no low-rank branch"):
        quantize_site(model, conv, low_rank=LowRank(draw(48, 2), draw(2, 4)), weight=None)
    round_weights(model, [site], bits=4)
    with pytest.raises(ConfigError, match="put the transform in before"):
        transform_site(model, site, Hadamard(48, size=4))
    with pytest.raises(ConfigError, match="quantized already; put the branch in before"):
        split_low_rank(model, site, 2)


def test_parts_that_do_not_fit_their_spec_are_refused():
    model = quantized()
    module = model.blocks[0].mlp.fc1
    spec, tensors = module.spec(), module.state_dict()
    assert torch.equal(build_site(spec, tensors, model.step_context)(draw(2, 48)), module(draw(2, 48)))
    damaged = [
        ({**spec, "low_rank": {"rank": 5}}, tensors, "low_rank|up is|says"),
        ({**spec, "extra_bytes": {}}, tensors, "parts take"),
        ({**spec, "transform": []}, tensors, "without transforms"),
        ({**spec, "transform": [{"kind": "magic"}]}, tensors, "'magic': allowed are divide, shift"),
        (spec, {**tensors, "low_rank.up": tensors["low_rank.up"].float()}, "float16"),
        (spec, {k: v for k, v in tensors.items() if k != "transform.0.factor"}, "factor is missing"),
        (spec, {**tensors, "transform.0.factor": torch.zeros(48)}, "factors are 0"),
    ]
    for wrong, changed, words in damaged:
        with pytest.raises((CheckpointError, ConfigError), match=words):
            build_site(wrong, changed, model.step_context)
