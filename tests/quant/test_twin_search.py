"""Alternating scale searches: each serves the product it is about, part by part and head by head."""

import pytest
import torch

from qdit.quant.nonlinear import signed_scale, twin_gelu, twin_softmax
from qdit.quant.twin_search import (
    scores_gradient,
    search_linear,
    search_mixing,
    search_scores,
    signed,
    symmetric_activation,
    symmetric_weight,
)

BITS = 4


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heavy(*shape, seed=0):
    """Values with long tails, whose best range is not that of the largest."""
    return normal(*shape, seed=seed) ** 3


def test_gradient_before_softmax_is_autograds():
    scores = normal(2, 3, 5, 5).requires_grad_()
    direction = normal(2, 3, 5, 5, seed=1)
    p = scores.softmax(-1)
    (expected,) = torch.autograd.grad((p * direction).sum(), scores)
    torch.testing.assert_close(scores_gradient(p.detach(), direction), expected)


def linear_error(x, weight, gradient, scale_w, scale_x, parts):
    product = signed(x, scale_x, BITS) @ signed(weight.view(parts, -1), scale_w[:, None], BITS).view_as(weight).t()
    return float(((product - x @ weight.t()) * gradient).square().sum())


@pytest.mark.parametrize("parts", [1, 3])
def test_searched_scales_of_a_linear_are_better_than_the_start(parts):
    x, weight, gradient = heavy(4, 9, 8), heavy(12, 8, seed=1), normal(4, 9, 12, seed=2)
    options = {"weight_bits": BITS, "activation_bits": BITS, "parts": parts}
    start = search_linear(x, weight, gradient, rounds=0, **options)
    torch.testing.assert_close(start[0], weight.view(parts, -1).abs().amax(1) / 7.5)
    torch.testing.assert_close(start[1], x.abs().amax().reshape(1) / 7.5)
    errors = []
    for rounds in (0, 1, 2, 3):
        scale_w, scale_x = search_linear(x, weight, gradient, rounds=rounds, **options)
        assert scale_w.shape == (parts,) and scale_x.shape == (1,)
        errors.append(linear_error(x, weight, gradient, scale_w, scale_x, parts))
    assert errors[1] < 0.9 * errors[0] and errors[2] <= errors[1] and errors[3] <= errors[2]


def test_the_parts_of_a_weight_are_searched_independently():
    x, weight, gradient = heavy(40, 8), heavy(12, 8, seed=1), normal(40, 12, seed=2)
    options = {"weight_bits": BITS, "activation_bits": 16}
    whole, _ = search_linear(x, weight, gradient, parts=3, **options)
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        alone, _ = search_linear(x, weight[rows], gradient[:, rows], **options)
        torch.testing.assert_close(alone, whole[part : part + 1])


def test_full_precision_is_left_out_of_the_search():
    x, weight, gradient = heavy(40, 8), heavy(12, 8, seed=1), normal(40, 12, seed=2)
    scale_w, scale_x = search_linear(x, weight, gradient, weight_bits=BITS, activation_bits=16)
    assert torch.equal(scale_x, signed_scale(x, 16).reshape(1))
    start, _ = search_linear(x, weight, gradient, weight_bits=BITS, activation_bits=16, rounds=0)
    assert not torch.equal(scale_w, start)
    scale_w, scale_x = search_linear(x, weight, gradient, weight_bits=16, activation_bits=BITS)
    assert torch.equal(scale_w, signed_scale(weight.view(1, -1), 16, per=0))
    assert scale_x < signed_scale(x, BITS)


def test_the_positive_step_of_a_gelu_output_is_searched_on_its_own():
    x = torch.nn.functional.gelu(heavy(60, 8), approximate="tanh")
    weight, gradient = normal(5, 8, seed=1), normal(60, 5, seed=2)
    options = {"weight_bits": 16, "activation_bits": BITS, "twin": True}
    (_, start), (_, result) = (search_linear(x, weight, gradient, rounds=r, **options) for r in (0, 1))
    torch.testing.assert_close(start, x.amax().reshape(1) / 7.5)
    errors = [float(((twin_gelu(x, s, BITS) - x) @ weight.t() * gradient).square().sum()) for s in (start, result)]
    assert errors[1] < errors[0]
    assert (twin_gelu(x, result, BITS) - x).square().sum() < (signed(x, result, BITS) - x).square().sum()


def test_scales_of_q_and_k_are_searched_for_every_head():
    q, k, gradient = heavy(3, 2, 6, 4), heavy(3, 2, 6, 4, seed=1), normal(3, 2, 6, 6, seed=2)
    q[:, 1] *= 10
    result = search_scores(q, k, gradient, bits=BITS)
    for head in range(2):
        part = slice(head, head + 1)
        alone = search_scores(q[:, part], k[:, part], gradient[:, part], bits=BITS)
        torch.testing.assert_close(torch.cat(alone), torch.stack([scale[head] for scale in result]))

    def error(scales):
        left, right = (signed(x, s[:, None, None], BITS) for x, s in zip((q, k), scales, strict=True))
        return float(((left @ right.mT - q @ k.mT) * gradient).square().sum())

    assert error(result) < 0.95 * error(search_scores(q, k, gradient, bits=BITS, rounds=0))


def attention(groups=2, rows=6):
    """Softmax outputs that are flat in the first group and sharp in the last."""
    sharpness = torch.linspace(0.1, 6, groups).repeat_interleave(rows // groups)
    p = (normal(rows, 2, 32, 32) * sharpness[:, None, None, None]).softmax(-1)
    return p, heavy(rows, 2, 32, 4, seed=1), normal(rows, 2, 32, 4, seed=2), torch.arange(rows) * groups // rows


def test_every_group_of_steps_has_the_split_that_serves_it_best():
    p, v, gradient, group = attention()
    splits, scale_v = search_mixing(p, v, gradient, group, bits=BITS, quantize_v=False)
    assert torch.equal(scale_v, signed_scale(v, BITS, per=1)), "v is not quantized: its start value"
    for number in range(2):
        rows = group == number
        errors = {}
        for split in (2.0**-i for i in range(20)):
            error = (twin_softmax(p[rows], split, BITS) @ v[rows] - p[rows] @ v[rows]) * gradient[rows]
            errors[split] = float(error.double().square().sum())
        assert float(splits[number]) == min(errors, key=errors.get)
    assert splits[0] != splits[1]


def test_searching_split_and_v_is_better_than_the_start():
    p, v, gradient, group = attention()

    def error(rounds):
        splits, scale_v = search_mixing(p, v, gradient, group, bits=BITS, quantize_v=True, rounds=rounds)
        mixed = twin_softmax(p, splits[group][:, None, None, None], BITS) @ signed(v, scale_v[:, None, None], BITS)
        return float(((mixed - p @ v) * gradient).square().sum())

    assert error(3) <= error(1) < 0.9 * error(0)
    splits, _ = search_mixing(p, v, gradient, group, bits=BITS, quantize_v=True, rounds=0)
    assert splits.tolist() == [2.0**-3] * 2


@pytest.mark.parametrize("parts", [1, 3, 12])
def test_symmetric_weights_have_the_same_codes_as_the_rounded_quotient(parts):
    weight = normal(12, 8)
    scale = (weight.view(parts, -1).abs().amax(1) / 7.5).half().float()
    result = symmetric_weight(weight, scale, BITS)
    rows = scale.repeat_interleave(12 // parts)[:, None]
    assert torch.equal(result.codes, ((weight / rows).round().clamp(-8, 7) + 8).to(torch.int16))
    assert (result.zero_point == 8).all()
    torch.testing.assert_close(result.dequantize(), signed(weight, rows, BITS))
    assert result.granularity.kind == ("tensor" if parts == 1 else "channel")


def test_symmetric_activations_equal_the_quantizer_of_the_search():
    x = 3 * normal(2, 3, 5, 4)
    one, many = torch.tensor([0.4]), torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(symmetric_activation(one, BITS)(x), signed(x, one, BITS))
    torch.testing.assert_close(symmetric_activation(many, BITS)(x), signed(x, many[:, None, None], BITS))


@pytest.mark.parametrize("twin", [False, True])
def test_inputs_without_positive_values_give_scales_that_can_be_divided_by(twin):
    x = torch.zeros(6, 8) if not twin else -0.1 * normal(6, 8).abs()
    result = search_linear(
        x, normal(5, 8, seed=1), normal(6, 5, seed=2), weight_bits=BITS, activation_bits=BITS, twin=twin
    )
    assert all((scale > 0).all() for scale in result)
    quantized = twin_gelu(x, result[1], BITS) if twin else signed(x, result[1], BITS)
    assert torch.isfinite(quantized).all() and (quantized - x).abs().max() < 0.2


def test_sixteen_bits_are_the_values_themselves():
    x = normal(5)
    assert signed(x, torch.tensor(0.1), 16) is x
