"""Weights and activations on floating-point grids and codebooks: nearest, packed, the same bits after a file."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from qdit.core.affine import Granularity, group, ungroup
from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.models.config import DiTConfig
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.activation import DynamicActivation
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.floats import E2M1, E4M3, FORMATS
from qdit.quant.grid_activations import FloatActivation, MxActivation, NvFp4Activation
from qdit.quant.grid_weights import codebook_weight, float_weight, mx_weight, nvfp4_weight
from qdit.quant.integer import IntegerLinear, prepare_integer
from qdit.quant.packed import keep_packed
from qdit.quant.site_building import build_site
from qdit.quant.sites import QuantizedLinear, quantize_site, stored_weight
from qdit.quant.size import size_counted_mb, size_paper_mb
from tests.small_models import inputs, random_dit

MINI = DiTConfig(input_size=8, in_channels=1, hidden_size=144, depth=1, num_heads=6, num_classes=10)
NF4 = torch.tensor([-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1])
WEIGHTS = {
    "mxfp4": lambda w: mx_weight(w, block_size=16),
    "mxfp6": lambda w: mx_weight(w, element="e2m3", block_size=16),
    "mxfp8": lambda w: mx_weight(w, element="e4m3", block_size=16),
    "nvfp4": nvfp4_weight,
    "fp8 channel": float_weight,
    "fp8 e5m2 tensor": lambda w: float_weight(w, element="e5m2", granularity=Granularity("tensor")),
    "fp4 groups": lambda w: float_weight(w, element="e2m1", granularity=Granularity("group", 12)),
    "nf4 groups": lambda w: codebook_weight(w, NF4, granularity=Granularity("group", 16)),
}
ACTIVATIONS = {
    "mxfp4": lambda: MxActivation(block_size=16),
    "mxfp8": lambda: MxActivation(element="e4m3", block_size=16),
    "nvfp4": NvFp4Activation,
    "nvfp4 calibrated": lambda: NvFp4Activation(tensor_scale=0.002),
    "fp8 token": FloatActivation,
    "fp4 groups": lambda: FloatActivation(element="e2m1", group_size=12),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output(model):
    with torch.inference_mode():
        return model(*inputs())


def quantized(kind, activation="mxfp4", *, model=None):
    model = model or random_dit()
    for site in select(model.sites(), roles=CORE_ROLES):
        weight = WEIGHTS[kind](linear_of(model, site).weight.detach())
        quantize_site(model, site, weight=weight, activation=ACTIVATIONS[activation]())
    return model


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=16, max_size=16),
    element=st.sampled_from(sorted(FORMATS)),
)
def test_an_mx_block_holds_the_nearest_numbers_of_its_scale(values, element):
    """Against a search over all codes in float64, with the scale of the specification."""
    form, row = FORMATS[element], torch.tensor(values)[None]
    weight = mx_weight(row, element=element, block_size=16)
    largest = float(row.abs().max())
    exponent = torch.frexp(torch.tensor(largest)).exponent.item() - 1 - form.largest_exponent if largest else -127
    scale = 2.0 ** max(exponent, -127)
    grid = form.values().double()
    grid = grid[grid.isfinite()] * scale
    best = (row.double()[..., None] - grid).abs().amin(dim=-1)
    assert torch.equal((row.double() - weight.dequantize().double()).abs(), best)


def test_nvfp4_is_within_half_a_step_of_its_scales():
    row = draw(6, 64) * draw(6, 64, seed=1).exp()
    weight = nvfp4_weight(row)
    scale = E4M3.decode(weight.scale) * weight.tensor_scale
    assert float(weight.tensor_scale) == pytest.approx(float(row.abs().max()) / (6 * 448), rel=1e-6)
    wanted = group(row, 16).abs().amax(-1) / 6
    assert bool(((scale - wanted).abs() <= wanted / 16 + 2**-10 * weight.tensor_scale).all())
    expected = ungroup(E2M1.round(group(row, 16) / scale[..., None]) * scale[..., None])
    assert torch.equal(weight.dequantize(), expected)


@pytest.mark.parametrize("kind", ["mxfp4", "mxfp8", "fp8 channel", "nf4 groups"])
def test_numbers_of_the_grid_stay(kind):
    once = WEIGHTS[kind](draw(10, 48))
    again = WEIGHTS[kind](once.dequantize())
    torch.testing.assert_close(again.dequantize(), once.dequantize(), rtol=1e-3, atol=0)


def test_a_codebook_takes_the_nearest_entry_of_its_table():
    values = draw(5, 48)
    weight = codebook_weight(values, NF4, granularity=Granularity("group", 16))
    scale = weight.scale.double().repeat_interleave(16, dim=1)
    distance = (values.double()[..., None] - NF4.double() * scale[..., None]).abs()
    chosen = (values.double() - weight.dequantize().double()).abs()
    assert float((chosen - distance.amin(dim=-1)).abs().max()) < 1e-6
    for table in (NF4[:15], NF4.flip(0), NF4[None]):
        with pytest.raises(ConfigError, match=r"codebook of shape .*a power of two, in ascending order"):
            codebook_weight(values, table)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_saved_and_loaded_weight_gives_the_same_bits(kind, packed, tmp_path):
    model = quantized(kind)
    expected = output(model)
    model = keep_packed(model) if packed else model
    assert torch.equal(output(model), expected)
    save_checkpoint(tmp_path, Quantized(model), {})
    loaded = load_checkpoint(tmp_path).model
    assert torch.equal(output(loaded), expected)
    save_checkpoint(tmp_path / "again", Quantized(loaded), {})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_saved_and_loaded_activation_gives_the_same_bits(kind, tmp_path):
    model = quantized("mxfp4", kind)
    save_checkpoint(tmp_path, Quantized(model), {})
    assert torch.equal(output(load_checkpoint(tmp_path).model), output(model))
    assert not torch.equal(output(model), output(random_dit()))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_of_one_sample_do_not_depend_on_the_others(kind):
    quantizer, x = ACTIVATIONS[kind](), draw(4, 5, 48) * torch.tensor([0.1, 1, 10, 0])[:, None, None]
    assert torch.equal(quantizer(x)[2], quantizer(x[2]))
    assert torch.equal(quantizer(x)[3], torch.zeros(5, 48))


@pytest.mark.parametrize(
    ("activation", "weight"),
    [("mxfp4", "mxfp4"), ("mxfp8", "mxfp8"), ("fp8 token", "fp8 channel"), ("fp4 groups", "fp4 groups")],
)
def test_activations_are_on_the_grid_of_weights(activation, weight):
    """The scale of a weight is rounded to float16, that of an activation is not."""
    x = draw(7, 48)
    expected = WEIGHTS[weight](x).dequantize()
    exact = activation.startswith("mx")
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(ACTIVATIONS[activation]()(x), expected, **tolerance)


BYTES = {  # of a weight of `rows` × `width`, codes and everything else
    "mxfp4": lambda rows, width: (rows * width // 2, rows * width // 16),
    "mxfp6": lambda rows, width: (rows * width * 6 // 8, rows * width // 16),
    "mxfp8": lambda rows, width: (rows * width, rows * width // 16),
    "nvfp4": lambda rows, width: (rows * width // 2, rows * width // 16 + 4),
    "fp8 channel": lambda rows, width: (rows * width, 2 * rows),
    "fp8 e5m2 tensor": lambda rows, width: (rows * width, 2),
    "fp4 groups": lambda rows, width: (rows * width // 2, 2 * rows * width // 12),
    "nf4 groups": lambda rows, width: (rows * width // 2, 2 * rows * width // 16 + 16 * 4),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_file_holds_codes_and_scales_and_nothing_else(kind, tmp_path):
    model = quantized(kind, model=random_dit(MINI))
    save_checkpoint(tmp_path, Quantized(model), {})
    tensors = load_file(tmp_path / "model.safetensors")
    for site in select(model.sites(), roles=CORE_ROLES):
        own = [t for n, t in tensors.items() if n.startswith(f"{site.name}.") and not n.endswith(".bias")]
        codes, extra = BYTES[kind](*linear_of(model, site).shape)
        assert sum(t.nbytes for t in own) == codes + extra
        assert linear_of(model, site).extra_bytes() == {"weight": extra}


def test_both_sizes_count_block_scales():
    model = quantized("mxfp4", model=random_dit(MINI))
    sites = {site.name: linear_of(model, site).spec() for site in select(model.sites(), roles=CORE_ROLES)}
    weights = sum(spec["shape"][0] * spec["shape"][1] for spec in sites.values())
    parameters = size_paper_mb(MINI, weight_bits=16) * 1e6 / 2
    result = size_counted_mb(MINI, weight_bits=4, sites=sites)
    assert result * 1e6 == pytest.approx(parameters / 2 + weights / 16)
    eight = {name: spec | {"weight_bits": 8} for name, spec in sites.items()}
    assert size_counted_mb(MINI, weight_bits=4, sites=eight) * 1e6 == pytest.approx(
        parameters / 2 + weights / 2 + weights / 16
    )


def test_widths_that_do_not_fit_a_block_are_refused_in_one_line():
    for make in (
        lambda: mx_weight(draw(4, 144)),
        lambda: MxActivation()(draw(4, 144)),
        lambda: nvfp4_weight(draw(4, 24)),
    ):
        with pytest.raises(ConfigError, match=r"does not divide (144|24); legal: \[1, 2") as problem:
            make()
        assert "\n" not in str(problem.value)
    with pytest.raises(CheckpointError, match="NaN"):
        mx_weight(torch.full((2, 32), torch.nan))


@pytest.mark.parametrize("kind", ["mxfp4", "nvfp4", "fp8 channel", "nf4 groups"])
def test_integer_kernels_say_why_they_cannot(kind):
    layer = QuantizedLinear(
        weight=WEIGHTS[kind](draw(8, 48)), bias=None, activation=DynamicActivation(bits=8, group_size=None)
    )
    with pytest.raises(Unsupported, match=r"weight kind (mx|nvfp4|float|codebook): no kernel multiplies .*simulated"):
        IntegerLinear(layer)
    with pytest.raises(Unsupported, match=r"blocks\.0\.attn\.qkv: weight kind"):
        prepare_integer(quantized(kind))


def damaged(kind):
    """Specs and tensors of a site with one thing wrong each, and words of the message."""
    layer = QuantizedLinear(weight=WEIGHTS[kind](draw(8, 48)), bias=None, activation=None)
    spec, tensors = layer.spec(), layer.state_dict()
    yield spec, {**tensors, "codes": tensors["codes"][:, :-1]}, "packed codes"
    yield spec, {**tensors, "scale": tensors["scale"][:-1]}, "scale is"
    yield spec, {**tensors, "scale": tensors["scale"].double()}, "scale is"
    yield spec, {name: t for name, t in tensors.items() if name != "scale"}, "scale is missing"
    yield spec, {name: t for name, t in tensors.items() if name != "codes"}, "codes is missing"
    yield {**spec, "weight_bits": 3}, tensors, "the configuration says 3"
    yield {**spec, "weight": {**spec["weight"], "kind": "magic"}}, tensors, "'magic': allowed are uniform, mx, nvfp4"
    if "block_size" in spec["weight"]:
        yield {**spec, "weight": {**spec["weight"], "block_size": 7}}, tensors, "block_size 7 does not divide 48"
        bad = tensors["scale"].clone()
        bad[0, 0] = 255
        yield spec, {**tensors, "scale": bad}, "NaN"
    if "scales" in spec["weight"]:
        yield {**spec, "weight": {**spec["weight"], "scales": [3, 1]}}, tensors, "do not fit a weight"
    if spec["weight"].get("element") == "e4m3":
        yield spec, {**tensors, "codes": tensors["codes"].clone().fill_(0x7F)}, "codes of e4m3 are NaN"


@pytest.mark.parametrize("kind", WEIGHTS)
def test_damaged_weights_are_refused_in_one_line(kind):
    for spec, tensors, words in damaged(kind):
        with pytest.raises(CheckpointError, match=words) as problem:
            build_site(spec, tensors, random_dit().step_context)
        assert "\n" not in str(problem.value)


@settings(max_examples=25, deadline=None)
@given(
    outputs=st.integers(1, 9),
    blocks=st.integers(1, 5),
    kind=st.sampled_from(sorted(WEIGHTS)),
    spread=st.floats(-12, 12),
    seed=st.integers(0, 99),
)
def test_tensors_and_facts_are_the_whole_weight(outputs, blocks, kind, spread, seed):
    """Through JSON and back: the same values, and the same tensors again."""
    weight = WEIGHTS[kind](draw(outputs, 48 * blocks, seed=seed) * 2.0**spread)
    facts, tensors = json.loads(json.dumps(weight.facts())), weight.tensors()
    again = type(weight).build(facts, tensors, weight.shape)
    assert torch.equal(again.dequantize(), weight.dequantize()) and again.bits == weight.bits
    assert again.facts() == weight.facts() and again.spec() == weight.spec()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.tensors().items())
    assert len(tensors["codes"]) == outputs and tensors["codes"].nbytes == outputs * 48 * blocks * weight.bits // 8


def test_a_weight_is_kept_when_a_quantizer_is_put_in():
    model = quantized("nvfp4")
    site = select(model.sites(), roles=["fc2"])[0]
    before = stored_weight(linear_of(model, site))
    quantize_site(model, site, activation=FloatActivation())
    after = stored_weight(linear_of(model, site))
    assert type(after) is type(before) and all(torch.equal(after.tensors()[n], t) for n, t in before.tensors().items())
