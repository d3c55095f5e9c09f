"""Integer layers: near to the simulated ones they are made of, and a reason where there is none."""

from functools import partial

import pytest
import torch

from qdit.core.affine import Granularity
from qdit.core.errors import Unsupported
from qdit.kernels import dense
from qdit.kernels.dense import DenseLinear
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import DynamicActivation, StaticActivation
from qdit.quant.integer import IntegerConv, IntegerLinear, packed_group_size, prepare_integer
from qdit.quant.layers import operands
from qdit.quant.low_rank import LowRank
from qdit.quant.nonlinear import TwinGeluActivation
from qdit.quant.ranges import minmax
from qdit.quant.sites import QuantizedConv, QuantizedLinear, prepare_inference, quantize_site
from qdit.quant.transforms import Chain, Divide, Hadamard
from qdit.quant.weight import quantize_weight
from tests.pretended_gpu import pretended_gpu

SMALL = DiTConfig(input_size=8, in_channels=1, hidden_size=48, depth=2, num_heads=2, num_classes=10)


def weight(shape, *, bits=4, granularity="channel", symmetric=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return quantize_weight(
        torch.randn(shape, generator=generator),
        bits=bits,
        granularity=Granularity.parse(granularity),
        ranges=partial(minmax, symmetric=symmetric),
        symmetric=symmetric,
    )


def static(count=1, *, bits=8, zero_point=117):
    return StaticActivation(bits=bits, scale=torch.full((count,), 0.03), zero_point=torch.full((count,), zero_point))


ACTIVATIONS = {
    "static tensor": static,
    "static groups": partial(static, 4),
    "token": partial(DynamicActivation, bits=8, group_size=None),
    "token and group": partial(DynamicActivation, bits=8, group_size=24),
    "symmetric": partial(DynamicActivation, bits=8, group_size=24, symmetric=True),
    "4 bits": partial(DynamicActivation, bits=4, group_size=24),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group(24)", "group(16)", "group(8)"])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_close_to_the_simulated_layer(kind, granularity, bits):
    module = QuantizedLinear(
        weight=weight((50, 96), bits=bits, granularity=granularity, symmetric=bits == 6),
        bias=torch.randn(50),
        activation=ACTIVATIONS[kind](),
    )
    x = torch.randn(2, 7, 96)
    expected, result = module(x), IntegerLinear(module)(x)
    assert result.shape == expected.shape
    assert (result - expected).norm() / expected.norm() < 1e-6


def test_a_convolution_is_a_linear_of_its_patches():
    for shape, kernel in (((3, 2, 8, 6), (2, 2)), ((3, 2, 4, 8, 6), (1, 2, 2)), ((2, 1, 4, 8, 6), (2, 2, 2))):
        check_convolution(torch.randn(shape), kernel)


def check_convolution(x, kernel):
    module = QuantizedConv(weight=weight((20, 8)), bias=torch.randn(20), activation=static(), kernel=kernel)
    expected, result = module(x), IntegerConv(module)(x)
    assert result.shape == expected.shape
    assert (result - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda: QuantizedLinear(weight=torch.randn(8, 24), bias=None, activation=static()), "weight is not quantized"),
        (lambda: QuantizedLinear(weight=weight((8, 24)), bias=None, activation=None), "input is not quantized"),
        (lambda: linear(DynamicActivation(bits=8, group_size=8, include_zero=False)), "leave zero out"),
        (lambda: linear(DynamicActivation(bits=8, group_size=8, sharing="sample")), "shared by a sample"),
        (lambda: linear(static(zero_point=-4)), "zero_point from -4"),
        (lambda: linear(TwinGeluActivation(bits=8, positive_scale=torch.tensor(0.1))), "kind twin-gelu"),
        (lambda: linear(DynamicActivation(bits=8, group_size=6)), "group_size 6"),
        (
            lambda: QuantizedConv(
                weight=weight((8, 8)), bias=None, activation=DynamicActivation(bits=8, group_size=None), kernel=(2, 2)
            ),
            "one static input range",
        ),
    ],
)
def test_what_does_not_fit_says_so_in_one_line(module, words):
    made = module()
    with pytest.raises(Unsupported, match=words) as problem:
        layer = IntegerConv(made) if isinstance(made, QuantizedConv) else IntegerLinear(made)
        layer(torch.randn(2, made.weight.shape[1]))
    assert "\n" not in str(problem.value)


def linear(activation):
    return QuantizedLinear(weight=weight((8, 24)), bias=None, activation=activation)


@pytest.mark.parametrize(
    ("weight_group", "input_group", "expected"),
    [(1152, 1152, 384), (4608, 4608, 512), (128, 128, 128), (16, 144, 16), (36, 16, 4), (6, 6, 6), (10, 24, 2)],
)
def test_packed_groups_divide_both_and_fit_a_chunk(weight_group, input_group, expected):
    assert packed_group_size(weight_group, input_group) == expected


def quantized_model(*, activation=None, weights=True, depth=2):
    torch.manual_seed(0)
    model = DiT(SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for site in select(model.sites(), roles=CORE_ROLES):
        shape = model.get_submodule(site.name).weight.shape
        quantized = weight(shape, granularity="group(16)", seed=len(site.name)) if weights else None
        chosen = DynamicActivation(bits=8, group_size=16) if activation is None else activation()
        quantize_site(model, site, weight=quantized, activation=chosen)
    return model.eval()


def forward(model):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    with torch.inference_mode():
        return model(x, torch.tensor([10, 500, 900]), torch.tensor([1, 2, 3]))


def test_a_model_in_integers_is_near_to_its_simulation():
    simulated, integer = forward(prepare_inference(quantized_model())), forward(prepare_integer(quantized_model()))
    assert (integer - simulated).norm() / simulated.norm() < 1e-3  # a code may flip where inputs differ by rounding
    prepared = prepare_integer(quantized_model())
    kinds = [type(module) for module in prepared.modules()]
    assert kinds.count(IntegerLinear) == 4 * SMALL.depth and QuantizedLinear not in kinds


def test_a_model_says_which_layer_does_not_fit():
    with pytest.raises(Unsupported, match=r"blocks\.0\.attn\.qkv: .* kind twin-gelu"):
        prepare_integer(
            quantized_model(activation=lambda: TwinGeluActivation(bits=8, positive_scale=torch.tensor(1.0)))
        )
    with pytest.raises(Unsupported, match="no layer has a quantized weight"):
        prepare_integer(DiT(SMALL))
    model = quantized_model()
    quantize_site(model, operands(model)[0], activation=static())
    with pytest.raises(Unsupported, match="operands of attention"):
        prepare_integer(model)


@pytest.mark.parametrize("kind", ["static groups", "token and group"])
def test_an_integer_layer_moves_as_a_whole_and_keeps_its_types(kind):
    """Packed codes, scales and given ranges go along; half precision for the rest of a model leaves them alone."""
    module = QuantizedLinear(
        weight=weight((50, 96), granularity="group(24)"), bias=torch.randn(50), activation=ACTIVATIONS[kind]()
    )
    layer, x = IntegerLinear(module), torch.randn(3, 96)
    expected = layer(x)
    halved = layer.half()
    assert halved.packed.scale.dtype == torch.float32 and halved.bias.dtype == torch.float16
    layer.float()
    with pretended_gpu() as gpu:
        layer.to(gpu)
        tensors = [layer.bias, layer.packed.codes, layer.packed.scale, layer.packed.sums, layer.packed.zeros]
        assert {tensor.device for tensor in [*tensors, *(layer.static or ())]} == {gpu}
        result = layer(x.to(gpu)).cpu()
    torch.testing.assert_close(result, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("gelu", [False, True])
def test_a_linear_prepared_for_the_cpu_can_be_moved(gelu):
    """Its weight is packed for oneDNN here; of a quantized layer it is not a parameter."""
    generator = torch.Generator().manual_seed(0)
    values, bias = torch.randn(24, 32, generator=generator), torch.randn(24, generator=generator)
    for weight_tensor in (values, torch.nn.Parameter(values)):
        layer, x = DenseLinear(weight_tensor, bias, gelu=gelu), torch.randn(5, 32, generator=generator)
        expected = layer(x)
        with pretended_gpu() as gpu:
            layer.to(gpu)
            result = layer(x.to(gpu)).cpu()
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["token and group", "static groups"])
def test_a_compiled_layer_is_one_graph_with_the_same_bits(kind):
    """The backend `aot_eager` traces with fake tensors as the compiler does, and compiles no C++."""
    module = QuantizedLinear(
        weight=weight((50, 96), granularity="group(24)"),
        bias=torch.randn(50),
        activation=ACTIVATIONS[kind](),
        transform=Chain([Divide(torch.rand(96) + 0.5), Hadamard(96, size=8, signs=torch.ones(96))]),
        low_rank=LowRank(torch.randn(50, 3), torch.randn(3, 96)),
    )
    block = torch.nn.Sequential(torch.nn.LayerNorm(96), IntegerLinear(module, gelu=True)).eval()
    x = torch.randn(2, 7, 96)
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), block(x))


@pytest.mark.parametrize("prepare", [prepare_inference, prepare_integer], ids=["simulated", "integer"])
@pytest.mark.parametrize("activation", [None, static], ids=["dynamic", "static"])
def test_a_block_of_a_dit_compiles_to_one_graph(prepare, activation, monkeypatch):
    """`fullgraph` refuses a graph break: LayerNorm, attention, GELU, quantizers and linears are all traced."""
    monkeypatch.setattr(dense, "backend", lambda: "torch")  # as on a GPU: no weights are packed for oneDNN
    block = prepare(quantized_model(activation=activation)).blocks[0]
    x, condition = (torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in ((2, 16, 48), (2, 48)))
    with torch.no_grad():
        expected = block(x, condition)
        result = torch.compile(block, fullgraph=True, backend="aot_eager")(x, condition)
    assert (result - expected).norm() / expected.norm() < 1e-3  # torch's LayerNorm and attention round differently
