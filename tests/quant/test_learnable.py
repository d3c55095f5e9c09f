"""Learned activation scales: codes on the bounds of the clamp keep their gradient, whatever torch's own clamp does."""

import pytest
import torch

from qdit.quant.activation import FactoredActivation, StaticActivation
from qdit.quant.learnable import LearnedScale

BITS, LEVELS = 4, 15


def input_of_fc2():
    """What a GELU lets through: most values lie at its minimum, whose code is 0."""
    x = torch.nn.functional.gelu(2 * torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0)))
    scale = ((x.max() - x.min()) / LEVELS).reshape(1)
    return x, StaticActivation(bits=BITS, scale=scale, zero_point=(-x.min() / scale).round())


def plain_port(x, quantizer):
    """LSQ as it is usually written: rounding passes gradients straight through, `clamp` differentiates itself."""
    scale = quantizer.scale.clone().requires_grad_()
    ratio = x / scale + quantizer.zero_point
    codes = ((ratio.round() - ratio).detach() + ratio).clamp(0, LEVELS)
    ((codes - quantizer.zero_point) * scale).sum().backward()
    return scale.grad


def by_hand(x, quantizer, *, bounds_pass):
    """Σ of code − zero point − x / scale where gradients pass, else of code − zero point."""
    codes = (x / quantizer.scale).round() + quantizer.zero_point
    passed = (codes >= 0) & (codes <= LEVELS) if bounds_pass else (codes > 0) & (codes < LEVELS)
    rest = codes.clamp(0, LEVELS) - quantizer.zero_point
    return torch.where(passed, rest - x / quantizer.scale, rest).sum()


def learned(x, quantizer):
    module = LearnedScale(quantizer, learn=True)
    module(x).sum().backward()
    return module.scale.grad


def test_codes_on_the_bounds_pass_their_gradient():
    x, quantizer = input_of_fc2()
    codes = (x / quantizer.scale).round() + quantizer.zero_point
    assert (codes == 0).float().mean() > 0.2 and not ((codes < 0) | (codes > LEVELS)).any(), "nothing is clamped"
    torch.testing.assert_close(learned(x, quantizer)[0], by_hand(x, quantizer, bounds_pass=True), rtol=1e-3, atol=1e-3)


def test_a_plain_port_depends_on_what_clamp_does_at_its_bounds():
    """The footgun: in torch 2.15 the derivative at the bounds is 0, and a scale gets another gradient."""
    bound = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    bound.clamp(0, 1).sum().backward()
    passes = bound.grad.tolist() == [1, 1, 1]
    assert passes or bound.grad.tolist() == [0, 1, 0]
    x, quantizer = input_of_fc2()
    plain, right = plain_port(x, quantizer), by_hand(x, quantizer, bounds_pass=True)
    torch.testing.assert_close(plain[0], by_hand(x, quantizer, bounds_pass=passes), rtol=1e-3, atol=1e-3)
    if not passes:
        assert abs(float(plain) - float(right)) > 0.5 * abs(float(right))


def test_a_factor_is_taken_in_before_the_codes_and_out_behind_them():
    x, plain = input_of_fc2()
    x = x.reshape(4, 2, 16, 16)
    factor = torch.linspace(0.5, 2, 32).reshape(2, 1, 16)
    factored = FactoredActivation(bits=BITS, scale=plain.scale, zero_point=plain.zero_point, factor=factor)
    module = LearnedScale(factored, learn=True)
    value = module(x / factor)
    torch.testing.assert_close(value * factor, plain(x), rtol=1e-4, atol=1.01 * float(plain.scale))
    assert (value * factor - plain(x)).abs().mean() < 1e-2 * float(plain.scale)
    (value * factor).sum().backward()
    assert module.scale.grad[0] == pytest.approx(float(learned(x, plain)), rel=0.1, abs=5)
    frozen = module.frozen()
    assert type(frozen) is FactoredActivation and torch.equal(frozen(x / factor), value)
