"""The Triton kernels in Triton's interpreter; test_triton.py runs this file in a process of its own.

Triton decides when it is imported whether it compiles or interprets: TRITON_INTERPRET=1 must be set before.
"""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch.nn.functional import linear

from qdit.core.affine import Granularity
from qdit.core.errors import Unsupported
from qdit.kernels import (
    compiled,
    dense,
    dispatch,
    flags,
    library,
    reference,
    triton_backend,
    triton_fake,
    triton_inputs,
    triton_linear,
    triton_quantize,
    triton_transform,
    triton_weight,
)
from qdit.kernels.inputs import GeluInput, ModulatedInput
from qdit.kernels.late import values_of
from qdit.kernels.packing import pack_weight
from qdit.kernels.parts import Parts, branch_bound, channel_step, hadamard_step, make_branch, transformed
from qdit.kernels.selftest import disagreement_of
from qdit.models.config import DiTConfig
from qdit.models.dit import DiTBlock
from qdit.models.roles import Site
from qdit.quant import sites
from qdit.quant.activation import DynamicActivation, StaticActivation
from qdit.quant.integer import prepare_integer
from qdit.quant.late_inputs import defer_unprepared
from qdit.quant.low_rank import LowRank
from qdit.quant.nonlinear import TwinGeluActivation
from qdit.quant.ranges import minmax
from qdit.quant.sites import FoldedLayerNorm, prepare_inference, quantize_site, transform_site
from qdit.quant.transforms import Divide
from qdit.quant.weight import quantize_weight
from tests.kernels.cases import KINDS, exact, inputs, same_bits, weight_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, of NaN and infinity


@pytest.fixture
def on_triton(monkeypatch):
    """The dispatcher takes the tensors at hand for CUDA tensors."""
    monkeypatch.setattr(dispatch, "_on_triton", lambda x, *others: True)


LINEARS = [
    # weight bits, group size, width, outputs, rows, symmetric
    (4, 32, 96, 50, 7, False),
    (4, 12, 48, 5, 3, True),
    (6, 36, 144, 70, 5, False),
    (8, 96, 192, 130, 40, False),
    (4, 32, 544, 20, 9, False),  # more groups than a part
    (8, 288, 576, 20, 9, False),
    (6, 1152, 1152, 20, 9, True),  # a group in several parts
    (8, 4, 16, 3, 1, False),
]


EVERY_KIND = ("random", "constant", "positive", "huge", "tiny", "outliers")
"""For one linear with ragged rows and outputs; the others have what their own path can go wrong with."""


def kinds_of(problem):
    """Kinds of inputs for a linear: all, a few of the small ones, one of those with several parts."""
    rows = problem[4]
    return EVERY_KIND if rows == 5 else ("random", "huge") if rows < 5 else ("random",)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [(problem, kind) for problem in LINEARS for kind in kinds_of(problem)],
    ids=str,
)
def test_linear_is_within_1e_6_of_quantize_dequantize_in_float64(problem, kind):
    bits, size, width, outputs, rows, symmetric = problem
    weight = weight_of(bits, outputs, width, size, 0)
    x, bias = inputs(kind, (rows, width), 1), torch.randn(outputs) if bits != 6 else None
    packed = pack_weight(*weight, bits=bits)
    y = triton_linear.grouped_linear(x, packed, bias, activation_bits=8, symmetric=symmetric)
    expected, sizes = exact(x, weight, bias, 8, symmetric=symmetric)
    assert y is not None and ((y - expected).abs() <= 1e-6 * sizes).all()
    backend = library.backend()
    if backend.library is not None and width <= 512:  # the same parts: the same bits as on CPUs
        on_cpu = compiled.grouped_linear(
            backend, x, packed, bias, activation_bits=8, symmetric=symmetric, threads=1, input_group=None
        )
        assert on_cpu is not None and same_bits(y, on_cpu)


@pytest.mark.parametrize("static", [False, True])
def test_linear_with_ranges_that_are_shared_or_given(on_triton, static):
    weight = weight_of(8, 20, 96, 12, 0)
    packed, x = pack_weight(*weight, bits=8), inputs("random", (2, 5, 96), 1)
    ranges = (torch.tensor([0.02, 0.03]), torch.tensor([120.0, 3.0])) if static else None
    y = dispatch.grouped_linear(x, packed, input_group=48, static=ranges)
    expected = reference.grouped_linear(x, packed, input_group=48, static=ranges)
    assert y.shape == (2, 5, 20) and torch.allclose(y, expected, rtol=1e-5, atol=1e-4)


def test_zero_points_outside_the_codes():
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0)
    for shift in (-100, 300):
        weight = (codes, scale, zero_point + shift)
        x = inputs("random", (5, 64), 0)
        expected, sizes = exact(x, weight, None, 8, symmetric=False)
        y = triton_linear.grouped_linear(x, pack_weight(*weight, bits=4), None, activation_bits=8, symmetric=False)
        assert y is not None and ((y - expected).abs() <= 1e-6 * sizes).all()


@pytest.mark.parametrize("size", [4, 32, 36, 288])
@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_are_those_of_the_reference(size, symmetric):
    for kind in KINDS:
        x = inputs(kind, (3, 3 * size), size)
        codes, scale, zero = reference.quantize_groups(x, size, 8, symmetric=symmetric)
        result = triton_quantize.quantize_groups(x, size, 8, symmetric=symmetric)
        assert torch.equal(result[0].float(), codes.flatten(-2)), kind
        assert same_bits(result[1], scale) and torch.equal(result[2], zero)


# Not bfloat16: the interpreter cuts off where a GPU rounds. test_triton.py looks into the compiled code instead.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [4, 12, 32, 288])
def test_simulation_is_that_of_the_reference(on_triton, dtype, size):
    for kind in KINDS:
        for bits, symmetric in ((8, False), (4, True)):
            x = inputs(kind, (1, 3, 2 * size), size).to(dtype)
            result = dispatch.fake_quantize_groups(x, size, bits, symmetric=symmetric)
            expected = reference.fake_quantize_groups(x, size, bits, symmetric=symmetric)
            assert result.dtype == dtype and torch.equal(result.nan_to_num(7), expected.nan_to_num(7)), kind


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("dtype", "scale_dtype"), [(0, 0), (1, 0), (1, 1)])
def test_static_simulation_is_that_of_the_reference(on_triton, groups, dtype, scale_dtype):
    types = (torch.float32, torch.float16)
    scale, zero = (torch.rand(groups) + 0.1).to(types[scale_dtype]), torch.arange(groups) * 40 - 20
    for kind in ("random", "outliers", "rows", "zero"):
        x = inputs(kind, (7, 36), groups).to(types[dtype])
        result = dispatch.fake_quantize_static(x, scale, zero, 8)
        expected = reference.fake_quantize_static(x, scale, zero, 8)
        assert result.dtype == expected.dtype and torch.equal(result, expected), kind


@pytest.mark.parametrize("source", [torch.float32, torch.float16])
def test_narrow_results_have_the_bits_of_three_passes(on_triton, source, narrow=torch.float16):
    """To float32, quantizer, to half precision: what a linear's input goes through under autocast.

    Triton's interpreter cuts bfloat16 off instead of rounding, so `test_triton.py` looks at the instruction.
    """
    scale, zero = torch.rand(3) + 0.1, torch.arange(3) * 40 - 20
    for kind in KINDS:
        for bits, symmetric in ((8, False), (4, True)):
            x = inputs(kind, (1, 3, 72), 36).to(source)
            result = dispatch.narrow_groups(x, 36, bits, narrow, symmetric=symmetric)
            expected = reference.fake_quantize_groups(x.float(), 36, bits, symmetric=symmetric).to(narrow)
            assert result.dtype == narrow and torch.equal(result.nan_to_num(7), expected.nan_to_num(7)), kind
        x = inputs(kind, (7, 36), 3).to(source)
        result = dispatch.narrow_static(x, scale, zero, 8, narrow)
        expected = reference.fake_quantize_static(x.float(), scale, zero, 8).to(narrow)
        assert result.dtype == narrow and torch.equal(result.nan_to_num(7), expected.nan_to_num(7)), kind


def test_ties_round_as_the_division_does():
    step = torch.rand(64, 1) * 3 + 1e-3
    x = (torch.randint(255, (64, 32)) + 0.5) * step
    x[:, 0], x[:, 1] = 0, 255 * step[:, 0]
    result = triton_fake.fake_quantize_groups(x, 32, 8, symmetric=False)
    assert same_bits(result, reference.fake_quantize_groups(x, 32, 8))


@pytest.mark.parametrize("damage", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_an_error_or_comes_out_as_from_the_reference(on_triton, damage):
    x = inputs("random", (4, 72), 0)
    x[1, 2] = damage
    with pytest.raises(Unsupported, match="not finite"):
        dispatch.grouped_linear(x, pack_weight(*weight_of(4, 5, 72, 36, 0), bits=4))
    result, expected = (f.fake_quantize_groups(x, 36, 8) for f in (dispatch, reference))
    assert torch.equal(result.nan_to_num(7), expected.nan_to_num(7))
    static = torch.tensor([0.1]), torch.tensor([3])
    result, expected = (f.fake_quantize_static(x, *static, 8) for f in (dispatch, reference))
    assert torch.equal(result.nan_to_num(7), expected.nan_to_num(7))


def test_a_result_that_is_not_finite_is_an_error(on_triton):
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0, "constant")
    packed = pack_weight(codes, torch.full_like(scale, 60000), zero_point, bits=4)
    with pytest.raises(Unsupported, match="not finite"):
        dispatch.grouped_linear(torch.full((5, 64), 1e38), packed)


@pytest.mark.parametrize(("bits", "size"), [(4, 32), (6, 36), (8, 16)])
def test_zero_points_in_the_padding_give_the_bits_of_those_subtracted_in_float32(monkeypatch, bits, size):
    packed = pack_weight(*weight_of(bits, 20, 3 * size, size, 0), bits=bits)
    options = {"activation_bits": 8, "symmetric": False}
    for kind in ("positive", "negative", "outliers"):
        x = inputs(kind, (3, 3 * size), 1)
        triton_weight._WIDE.clear()
        assert triton_linear.wide_weight(packed).sums is None
        y = triton_linear.grouped_linear(x, packed, None, **options)
        with monkeypatch.context() as patch:
            patch.setattr(triton_weight, "digits_of", lambda largest: 10_000)
            triton_weight._WIDE.clear()
            assert triton_linear.wide_weight(packed).sums is not None
            assert same_bits(y, triton_linear.grouped_linear(x, packed, None, **options)), kind
    triton_weight._WIDE.clear()


def test_a_step_for_zero_points_is_added_only_where_it_helps():
    assert [triton_weight.padded_for(size, 500) for size in (16, 32, 36, 64, 128, 192, 288)] == [
        *(32, 64, 64, 96, 160, 192, 288),
    ]
    assert triton_weight.padded_for(32, 127 * 32) == 64 and triton_weight.padded_for(32, 127 * 32 + 1) == 32
    assert triton_weight.padded_for(1152, 9) == 1152 and triton_weight.padded_for(1160, 9) == 1280
    numbers = torch.tensor([0, 1, -1, 127, -128, 500, -889])
    result = triton_weight.digits(numbers, 7)
    assert torch.equal(result.sum(dim=-1), numbers) and int(result.abs().max()) <= 127


CHANNELS = [
    # weight bits, width, outputs, rows, shift of the zero points
    (4, 320, 20, 5, 0),
    (8, 300, 5, 3, 0),
    (8, 640, 5, 3, 100),  # two packed groups; zero points far outside
]


@pytest.mark.parametrize("problem", CHANNELS, ids=str)
def test_one_range_for_each_token_and_channel(problem):
    bits, width, outputs, rows, shift = problem
    codes, scale, zero_point = weight_of(bits, outputs, width, width, 0)
    weight, bias = (codes, scale, zero_point + shift), torch.randn(outputs)
    packed = pack_weight(*weight, bits=bits, group_size=320 if width == 640 else None)
    wide = triton_linear.wide_weight(packed, whole=True)
    assert wide.size == width and len(wide.scale) == 1 and wide.padded % 128 == 0
    for kind in ("random", "outliers"):
        x = inputs(kind, (rows, width), 1)
        y = triton_linear.grouped_linear(x, packed, bias, activation_bits=8, symmetric=False, input_group=width)
        expected, sizes = exact(x, weight, bias, 8, symmetric=False)
        assert y is not None and ((y - expected).abs() <= 1e-6 * sizes).all()


def test_other_ranges_are_not_taken_for_one_of_each_channel():
    packed = pack_weight(*weight_of(4, 5, 640, 320, 0), bits=4)
    assert triton_linear.wide_weight(packed, whole=True).size < 640
    assert triton_linear.wide_weight(packed).size < 640


def test_a_long_chain_is_exact_enough_for_half_precision():
    weight, groups = weight_of(4, 9, 80, 4, 0), 20
    x = inputs("random", (3, 80), 1)
    assert triton_linear.part_for(groups, torch.float32) and not triton_linear.part_for(groups, torch.float16)
    packed = pack_weight(*weight, bits=4)
    y = triton_linear.grouped_linear(x, packed, None, activation_bits=8, symmetric=False, dtype=torch.float16)
    expected, sizes = exact(x, weight, None, 8, symmetric=False)
    most = (groups + 2) * 2.0**-24 * sizes + 2.0**-11 * (expected.abs() + 1e-3)
    assert y is not None and y.dtype == torch.float16 and ((y - expected).abs() <= most).all()


def late_inputs(dtype, width=48, tokens=3):
    """A LayerNorm with a modulation whose rows are not contiguous, and a GELU."""
    x, modulation = inputs("rows", (2, tokens, width), 1).to(dtype), inputs("random", (2, 6 * width), 2)
    shift, scale = modulation[:, width : 2 * width], modulation[:, 3 * width : 4 * width].to(dtype)
    return ModulatedInput(x, shift, scale), GeluInput((4 * inputs("random", (2, tokens, width), 3)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_norm_and_gelu_are_those_of_torch(on_triton, dtype):
    for late in late_inputs(dtype):
        result, expected = dispatch.computed(late), type(late)(*(t.float() for t in late.tensors())).computed()
        unit = 4e-6 if dtype == torch.float32 else 2e-3  # 1 + scale and the result are rounded to half precision
        assert result.dtype == dtype and torch.allclose(result.float(), expected, rtol=unit, atol=unit)
    endless = GeluInput(torch.tensor([[-1e30, 1e30, float("inf"), -float("inf"), float("nan"), -0.0, 0.0, -90.0]]))
    assert torch.equal(dispatch.computed(endless).nan_to_num(7), endless.computed().nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [12, 16])
def test_fused_quantizers_give_the_codes_of_two_passes(on_triton, dtype, size):
    steps = parts_of(48, 5, 16, 0).steps
    for late in late_inputs(dtype):
        options = {"shared": size, "size": size, "symmetric": False, "static": None, "totals": True, "steps": steps}
        fused = triton_quantize.quantize_rows(late, 8, **options)
        rows = dispatch.computed(late).flatten(0, 1)
        simple = triton_quantize.quantize_rows(rows, 8, **options)
        assert all(torch.equal(*pair) for pair in zip(fused, simple, strict=True))
        narrow = {"symmetric": False, "narrow": torch.float16}
        fake, simple = (triton_fake.fake_quantize_groups(x, size, 8, **narrow) for x in (late, rows))
        assert fake.shape == late.shape and torch.equal(fake.flatten(0, 1), simple)
    for late in late_inputs(dtype, tokens=25):  # more values than a program
        rows = dispatch.computed(late)
        for groups, narrow in ((1, torch.float32), (48 // size, torch.float16)):
            scale_and_zero = torch.rand(groups) + 0.05, torch.randint(256, (groups,))
            fake, simple = (dispatch.narrow_static(x, *scale_and_zero, 8, narrow) for x in (late, rows))
            assert fake.shape == late.shape and fake.dtype == narrow
            assert torch.equal(fake.nan_to_num(7), simple.nan_to_num(7)), "rows of large numbers are NaN in float16"


def test_a_linear_takes_inputs_that_are_not_computed_yet(on_triton):
    packed, bias = pack_weight(*weight_of(4, 5, 48, 12, 0), bits=4), torch.randn(5)
    parts = (parts_of(48, 5, 16, 0), parts_of(48, 5, 0, 3), Parts(parts_of(48, 5, 0, 0).steps * 3))
    for late in late_inputs(torch.float32):
        for part in parts:
            y = dispatch.grouped_linear(late, packed, bias, parts=part, dtype=torch.float16)
            expected = dispatch.grouped_linear(dispatch.computed(late), packed, bias, parts=part, dtype=torch.float16)
            assert y.dtype == torch.float16 and torch.equal(y, expected)


def test_the_blocks_of_a_dit_compute_norm_and_gelu_with_their_quantizers(on_triton, monkeypatch):
    model = small_integer_dit()
    x, condition = inputs("random", (2, 4, 32), 1), inputs("random", (2, 32), 2)
    expected = model(x, condition)
    late, multiply = [], triton_linear.grouped_linear
    seen = lambda x, *rest, **options: late.append(type(x).__name__) or multiply(x, *rest, **options)  # noqa: E731
    monkeypatch.setattr(triton_linear, "grouped_linear", seen)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    result = model(x, condition)
    assert late == ["ModulatedInput", "Tensor", "ModulatedInput", "GeluInput"]
    assert torch.allclose(result, expected, rtol=1e-3, atol=1e-3)  # a code may differ at the border of two


def small_integer_dit():
    """A block of a DiT whose four linears multiply integers."""
    return prepare_integer(small_quantized_dit(DynamicActivation(bits=8, group_size=16)))


def small_quantized_dit(activation, transform=None):
    """A block of a DiT with four quantized linears; their inputs have a transform, if one is given."""
    torch.manual_seed(0)
    block = DiTBlock(DiTConfig(input_size=4, hidden_size=32, depth=1, num_heads=2)).requires_grad_(False)
    torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=0.2)
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        groups, site = Granularity.parse("group(16)"), Site(name, name, "linear")
        if transform is not None:
            transform_site(block, site, transform(block.get_submodule(name).in_features))
        weight = quantize_weight(block.get_submodule(name).weight, bits=4, granularity=groups, ranges=minmax)
        quantize_site(block, site, weight=weight, activation=deepcopy(activation))
    return block


STATIC = {"bits": 8, "scale": torch.tensor([0.03, 0.02]), "zero_point": torch.tensor([117, 90])}
IN_ONE_PASS = {
    "groups": (DynamicActivation(bits=8, group_size=16), None),
    "tokens": (DynamicActivation(bits=4, group_size=None, symmetric=True), None),
    "static": (StaticActivation(**STATIC), None),
}
IN_TWO_PASSES = {
    "a sample": (DynamicActivation(bits=8, group_size=16, sharing="sample"), None),
    "twin": (TwinGeluActivation(bits=8, positive_scale=torch.tensor(0.05)), None),
    "transform": (DynamicActivation(bits=8, group_size=16), lambda width: Divide(torch.rand(width) + 0.5)),
    "branch": (DynamicActivation(bits=8, group_size=16), None),
}


BLOCKS = [(kind, prepare_inference, torch.float16) for kind in (*IN_ONE_PASS, *IN_TWO_PASSES)]
BLOCKS += [(kind, defer_unprepared, torch.float32) for kind in IN_ONE_PASS]  # as in diffusers
BLOCKS += [("groups", prepare_inference, torch.float32)]


@pytest.mark.parametrize(("kind", "prepare", "dtype"), BLOCKS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_simulated_blocks_have_the_bits_of_two_passes(on_triton, monkeypatch, kind, prepare, dtype):
    """LayerNorm and GELU in the pass of the quantizer, where its kind has one; under autocast and without it."""
    activation, transform = {**IN_ONE_PASS, **IN_TWO_PASSES}[kind]
    block, folded = small_quantized_dit(activation, transform), torch.rand(2, 32, generator=torch.Generator())
    if kind == "branch":
        for name in ("attn.qkv", "mlp.fc1", "mlp.fc2"):
            module = block.get_submodule(name)
            module.low_rank = LowRank(torch.randn(module.shape[0], 2), torch.randn(2, module.shape[1]))
    monkeypatch.setattr(dense, "backend", lambda: "torch")
    block.norm1 = FoldedLayerNorm(inverse=folded[0] + 0.5, offset=folded[1])
    model = prepare(block)
    x, condition = inputs("random", (2, 4, 32), 1), inputs("random", (2, 32), 2)
    seen = watched_passes(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: dtype is torch.float16)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: dtype)
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, *rest: linear(x.float(), *rest))
    result = model(x, condition)
    late = ["ModulatedInput", "Tensor", "ModulatedInput", "GeluInput"]
    assert seen == (late if kind in IN_ONE_PASS else ["Tensor"] * 4 if kind in ("transform", "branch") else [])
    quantize = sites.input_of_product
    monkeypatch.setattr(sites, "input_of_product", lambda kind, x: quantize(kind, values_of(x)))
    assert torch.equal(result, model(x, condition))
    assert seen[len(seen) // 2 :] == ["Tensor"] * (len(seen) // 2)


def watched_passes(monkeypatch):
    """Types of the inputs of the kernels of the simulated mode, as they come."""
    types = []
    for name in ("fake_quantize_groups", "fake_quantize_static"):

        def watched(kernel, x, *rest, **options):
            types.append(type(x).__name__)
            return kernel(x, *rest, **options)

        monkeypatch.setattr(triton_fake, name, partial(watched, getattr(triton_fake, name)))
    return types


def test_unpacked_weights_follow_the_packed_ones():
    packed = pack_weight(*weight_of(4, 5, 32, 32, 0), bits=4)
    first = triton_linear.wide_weight(packed)
    assert triton_linear.wide_weight(packed) is first
    packed.codes.copy_(pack_weight(*weight_of(4, 5, 32, 32, 1), bits=4).codes)
    assert not torch.equal(triton_linear.wide_weight(packed).codes, first.codes)


def test_the_self_test_passes_and_sees_a_wrong_kernel(monkeypatch):
    assert disagreement_of(triton_backend.operations(), "cpu") is None
    assert triton_backend.late_disagreement("cpu") is None
    with monkeypatch.context() as patch:
        patch.setattr(triton_inputs, "EPSILON", 1e-2)
        assert triton_backend.late_disagreement("cpu") == "another ModulatedInput"
    digits = triton_weight.digits
    monkeypatch.setattr(triton_weight, "digits", lambda numbers, count: digits(numbers + 1, count))
    triton_weight._WIDE.clear()
    assert disagreement_of(triton_backend.operations(), "cpu") is not None


TRANSFORMED = [
    # weight bits, group size, width, outputs, rows, Hadamard block (0: none), rank (0: no branch), shared inputs
    (4, 32, 128, 50, 7, 64, 5, 32),  # several ranges in a block
    (4, 36, 144, 20, 3, 16, 0, 36),  # blocks and groups that cross each other
    (6, 96, 192, 60, 5, 4, 20, 192),  # several blocks in a range
    (8, 12, 48, 5, 2, 0, 33, 12),
]


def parts_of(width, outputs, block, rank):
    draw = torch.randn(3, width, generator=torch.Generator().manual_seed(width))
    steps = [channel_step("divide", draw[0].exp()), channel_step("subtract", draw[1])]
    steps += [channel_step("multiply", draw[2].sign()), hadamard_step(block)] if block else []
    factors = (torch.randn(outputs, rank).half(), torch.randn(rank, width).half()) if rank else None
    return Parts(tuple(steps), None if factors is None else make_branch(*factors))


@pytest.mark.parametrize("problem", TRANSFORMED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transform_and_branch(on_triton, problem, dtype):
    bits, size, width, outputs, rows, block, rank, shared = problem
    parts, x = parts_of(width, outputs, block, rank), inputs("random", (rows, width), 1).to(dtype)
    packed = pack_weight(*weight_of(bits, outputs, width, size, 0), bits=bits)
    bias = torch.randn(outputs)
    y = dispatch.grouped_linear(x, packed, bias, parts=parts, input_group=shared)
    expected = reference.grouped_linear(x.float(), packed, bias, parts=parts, input_group=shared)
    entered = transformed(x, parts.steps)
    most = 1e-5 * expected.abs().double() + 1e-5
    if parts.branch is not None:
        most += 4 * branch_bound(entered, parts.branch)  # sums of 128 and more inputs
    most += 1e-3 * expected.abs() if dtype == torch.float16 else 0
    assert y.dtype == dtype and ((y - expected).abs() <= most).all()
    plain = triton_quantize.quantize_groups(x, size, 8, symmetric=False)[0]
    codes = (
        triton_quantize.quantize_rows(
            x, 8, shared=size, size=size, symmetric=False, static=None, totals=False, steps=parts.steps
        )
        .codes.view(rows, -1, triton_quantize.padded_size(size))[..., :size]
        .int()
        + 128
    )
    wanted = reference.quantize_groups(entered, size, 8)[0]
    assert torch.equal(codes.float(), wanted) and not torch.equal(codes.flatten(1).to(torch.uint8), plain)


@pytest.mark.parametrize("size", [2, 32, 128])
def test_a_narrow_row_is_the_product_of_the_transformed_row(size):
    parts, x = parts_of(128, 50, size, 7), inputs("rows", (5, 128), 2)
    narrow = triton_transform.narrow_rows(x, parts.branch, parts.steps)
    entered = transformed(x, parts.steps).double()
    expected, sizes = entered @ parts.branch.down.double(), entered.abs() @ parts.branch.down.double().abs()
    assert ((narrow.T - expected).abs() <= 140 * 2.0**-24 * sizes).all()


def test_too_many_steps_are_computed_before_the_kernel(on_triton):
    steps = parts_of(48, 5, 0, 0).steps * 3
    assert not triton_transform.fit(steps, 48)
    packed, x = pack_weight(*weight_of(4, 5, 48, 12, 0), bits=4), inputs("random", (3, 48), 1)
    y, expected = (f.grouped_linear(x, packed, parts=Parts(steps)) for f in (dispatch, reference))
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-4)


def test_a_flag_is_read_once_for_a_forward_and_after_every_other_call(on_triton, monkeypatch):
    packed, x = pack_weight(*weight_of(4, 5, 48, 12, 0), bits=4), inputs("random", (3, 48), 1)
    endless, looks = x.clone().fill_(float("inf")), []
    look = flags._lowered
    monkeypatch.setattr(flags, "_lowered", lambda flag: looks.append(1) or look(flag))

    class Twice(torch.nn.Module):
        def forward(self, first, second):
            return [dispatch.grouped_linear(value, packed) for value in (first, second)]

    model = Twice()
    model(x, x)
    assert len(looks) == 2
    flags.watch(model)
    looks.clear()
    model(x, x)
    assert len(looks) == 1
    with pytest.raises(Unsupported, match="not finite"):
        model(endless, x)
    model(x, x)  # the flag is down again
    with pytest.raises(Unsupported, match="not finite"), flags.watched():
        model(endless, x)
        dispatch.grouped_linear(x, packed)
    with pytest.raises(ZeroDivisionError), flags.watched():
        model(endless, x)
        raise ZeroDivisionError
    model(x, x)
