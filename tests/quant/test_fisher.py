"""Hessian-guided search: gradients are the model's, and the scale that wins is the best of the grid."""

import numpy as np
import pytest
import torch

from qdit.core.seeds import Purpose, torch_generator
from qdit.models.roles import select
from qdit.quant.fisher import FRACTIONS, SPLITS, mean_squares, search_scale, sensitivities
from qdit.quant.observe import Tap
from tests.small_models import inputs, random_dit

ROLES = ("qkv", "fc2", "final", "q", "p")


def found_sensitivities(model, fisher="gauss-newton", batch=None):
    sites = select(model.sites(), roles=ROLES)
    return sites, sensitivities(model, sites, [batch or inputs(count=4)], fisher=fisher)


def directional(model, name, before, x, timestep, label, direction):
    """(v · output) as function of what is added along `direction` at a site's input (operands) or output (linears)."""
    amount = torch.zeros((), requires_grad=True)
    module = model.get_submodule(name)
    if before:
        handle = module.register_forward_pre_hook(lambda _m, args: (args[0] + amount * direction,))
    else:
        handle = module.register_forward_hook(lambda _m, _i, output: output + amount * direction)
    output = model(x, timestep, label)
    handle.remove()
    signs = torch.randint(2, output.shape, generator=torch_generator(0, Purpose.PROBE, 0)).to(output) * 2 - 1
    (slope,) = torch.autograd.grad((output * signs).sum(), amount)
    return float(slope)


def test_gradients_are_those_of_the_output_against_random_signs():
    """For every linear's output and every operand: ⟨g, d⟩ is the derivative along a direction d."""
    model = random_dit()
    sites, result = found_sensitivities(model)
    for site in select(sites, kinds=("operand",)):
        setattr(model.get_submodule(site.name.rpartition(".")[0]), site.role, Tap())
    for site in sites:
        gradient = result[site.name].gradient
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1))
        expected = directional(model, site.name, site.kind == "operand", *inputs(count=4), direction)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-3, abs=2e-3), site.name


def test_inputs_are_those_of_the_sites():
    model = random_dit()
    _, result = found_sensitivities(model)
    seen = {}
    model.blocks[1].mlp.fc2.register_forward_pre_hook(lambda _m, args: seen.update(x=args[0]))
    with torch.no_grad():
        model(*inputs(count=4))
    torch.testing.assert_close(result["blocks.1.mlp.fc2"].x, seen["x"])
    p = result["blocks.1.attn.p"].x
    assert p.shape == (4, 2, 16, 16)
    torch.testing.assert_close(p.sum(-1), torch.ones(4, 2, 16))
    assert not any(t.requires_grad for s in result.values() for t in (s.x, s.gradient))


def test_batches_are_concatenated_and_each_has_signs_of_its_own():
    model, batch = random_dit(), inputs(count=4)
    (site,) = select(model.sites(), roles=("final",))
    result = sensitivities(model, [site], [batch, batch], fisher="gauss-newton")[site.name]
    assert torch.equal(result.x[:4], result.x[4:])
    assert not torch.equal(result.gradient[:4], result.gradient[4:])
    again = sensitivities(model, [site], [batch, batch], fisher="gauss-newton")[site.name]
    assert torch.equal(result.gradient, again.gradient)
    other = sensitivities(model, [site], [batch, batch], fisher="gauss-newton", seed=1)[site.name]
    assert not torch.equal(result.gradient, other.gradient)


def test_the_released_divergence_has_no_gradient_but_rounding_noise():
    model = random_dit()
    _, exact = found_sensitivities(model)
    _, released = found_sensitivities(model, "kl")
    for name in exact:
        assert released[name].gradient.abs().max() < 1e-5 * exact[name].gradient.abs().max()


def test_the_model_is_left_as_it_was():
    model = random_dit()
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    found_sensitivities(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(isinstance(module, Tap) for module in model.modules())


def rounding(x):
    """x (A, P, B) quantized with a scale per part and no limits."""
    return lambda scale: (x / scale[:, None]).round() * scale[:, None]


def test_the_scale_that_wins_is_the_optimum_of_every_part_on_its_own():
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-7, 8, (40, 3, 5), generator=draw) * torch.tensor([0.5, 0.2, 3.0])[:, None]
    gradient = torch.rand(x.shape, generator=draw) + 0.1
    start = torch.tensor([0.5, 0.2, 3.0]) * torch.tensor([1 / 0.9, 1 / 0.6, 1 / 0.75])
    grid = (0.5, 0.6, 0.75, 0.8, 0.9, 1.0, 1.1)
    result = search_scale(start, rounding(x), x, gradient, candidates=grid)
    torch.testing.assert_close(result, torch.tensor([0.5, 0.2, 3.0]))
    alone = search_scale(start[1:2], rounding(x[:, 1:2]), x[:, 1:2], gradient[:, 1:2], candidates=grid)
    assert torch.equal(alone, result[1:2])


def test_it_is_the_least_weighted_error_of_an_exhaustive_loop():
    draw = torch.Generator().manual_seed(3)
    x, gradient = torch.randn(30, 2, 4, generator=draw), torch.randn(30, 2, 4, generator=draw)
    start = torch.tensor([0.8, 0.5])
    result = search_scale(start, rounding(x), x, gradient, candidates=FRACTIONS)
    for part in range(2):
        scores = []
        for fraction in FRACTIONS:
            scale = float(start[part]) * fraction
            values = x[:, part].double().numpy()
            error = (np.round(values / scale) * scale - values) * gradient[:, part].double().numpy()
            scores.append((error**2).sum())
        assert float(result[part]) == pytest.approx(float(start[part]) * FRACTIONS[int(np.argmin(scores))], rel=1e-5)


def test_the_gradient_decides_which_values_matter():
    """Two values that no candidate serves both: the scale of the one with the gradient wins."""
    x = torch.tensor([[[1.0, 1.5]]])
    for weights, expected in (([1.0, 0.0], 1.0), ([0.0, 1.0], 1.5)):
        result = search_scale(torch.ones(1), rounding(x), x, torch.tensor([[weights]]), candidates=(1.0, 1.5))
        assert float(result[0]) == expected


def test_without_gradients_the_largest_candidate_wins():
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    start = torch.tensor([0.3, 2.0])
    result = search_scale(start, rounding(x), x, torch.zeros_like(x), candidates=FRACTIONS)
    torch.testing.assert_close(result, start * max(FRACTIONS))


def test_the_grids_are_those_of_ptq4vit():
    assert len(FRACTIONS) == 100 and FRACTIONS[0] == 0.01
    assert np.allclose(np.diff(FRACTIONS), 0.0119) and FRACTIONS[-1] == pytest.approx(1.1881)
    assert len(SPLITS) == 20 and (SPLITS[0], SPLITS[-1]) == (1.0, 2.0**-19)


def test_one_forward_pass_serves_all_draws_with_the_same_bits(monkeypatch):
    model, batch = random_dit(), inputs(count=4)
    sites = select(model.sites(), kinds=("linear", "operand"))
    draws = [sensitivities(model, sites, [batch], fisher="gauss-newton", seed=seed) for seed in (3, 8, 5)]
    for most in (4, 3):  # samples of one backward pass
        monkeypatch.setattr("qdit.quant.fisher.rows_with_gradients", lambda *_, most=most: most)
        x, squares = mean_squares(model, sites, batch, seeds=(3, 8, 5))
        assert set(x) == set(squares) == {site.name for site in sites}
        for name, square in squares.items():
            expected = sum(draw[name].gradient.square() / 3 for draw in draws)
            if most == 4:
                assert torch.equal(square, expected) and torch.equal(x[name], draws[0][name].x)
            torch.testing.assert_close(square, expected, rtol=1e-3, atol=1e-9)


def test_weights_get_no_gradients_and_can_be_trained_as_before():
    model = random_dit()
    frozen = model.final_layer.linear.weight.requires_grad_(False)
    sensitivities(model, select(model.sites(), kinds=("linear",)), [inputs(count=4)], fisher="gauss-newton")
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p for p in model.parameters() if not p.requires_grad] == [frozen]
