"""The operations as torch.ops.qdit.*: correct schemas, fake kernels and graphs."""

import pytest
import torch

from qdit.kernels import dispatch, ops
from qdit.kernels.packing import pack_weight
from tests.kernels.cases import weight_of

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
"""Not the one of AOT dispatch: it imports the compiler, which takes seconds."""


def linear_arguments(bits):
    weight = pack_weight(*weight_of(bits, 50, 48, 12, 0), bits=bits)
    tensors = (weight.codes, weight.scale, weight.sums, weight.zeros, weight.zero_pairs)
    return weight, (*tensors, torch.randn(50), bits, weight.storage, 50, 12)


@pytest.mark.parametrize("bits", [4, 8])
def test_grouped_linear(bits):
    x = torch.randn(2, 3, 48)
    weight, arguments = linear_arguments(bits)
    torch.library.opcheck(torch.ops.qdit.grouped_linear.default, (x, *arguments), test_utils=CHECKS)
    result = torch.ops.qdit.grouped_linear(x, *arguments)
    assert torch.equal(result, dispatch.grouped_linear(x, weight, arguments[5]))


@pytest.mark.parametrize("options", [{"symmetric": True}, {"threads": 2}, {"activation_bits": 6, "symmetric": True}])
def test_grouped_linear_takes_what_differs_from_the_defaults(options):
    x = torch.randn(2, 3, 48)
    weight, arguments = linear_arguments(4)
    result = torch.ops.qdit.grouped_linear(x, *arguments, **options)
    assert torch.equal(result, dispatch.grouped_linear(x, weight, arguments[5], **options))
    assert options == {"threads": 2} or not torch.equal(result, torch.ops.qdit.grouped_linear(x, *arguments))


def test_fake_quantization():
    x = torch.randn(2, 3, 48)
    scale, zero = torch.tensor([0.1, 0.2]), torch.tensor([3, 4], dtype=torch.int32)
    torch.library.opcheck(torch.ops.qdit.fake_quantize_groups.default, (x, 12, 8), test_utils=CHECKS)
    torch.library.opcheck(torch.ops.qdit.fake_quantize_static.default, (x, scale, zero, 8), test_utils=CHECKS)
    assert torch.equal(torch.ops.qdit.fake_quantize_groups(x, 12, 8), dispatch.fake_quantize_groups(x, 12, 8))
    result = torch.ops.qdit.fake_quantize_static(x, scale, zero, 8)
    assert torch.equal(result, dispatch.fake_quantize_static(x, scale, zero, 8))


def test_a_traced_graph_keeps_the_operations():
    assert ops.LIBRARY.ns == "qdit"

    def step(x):
        return torch.ops.qdit.fake_quantize_groups(x.transpose(0, 1), 12, 8) + 1

    x = torch.randn(3, 2, 48)
    traced = torch.fx.experimental.proxy_tensor.make_fx(step, tracing_mode="symbolic")(x)
    assert "fake_quantize_groups" in traced.code
    assert torch.equal(traced(x), step(x))
