"""Block reconstruction: it lowers the error it is about, on the grid it was given, and changes nothing else."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.kernels.backend import forced
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import registry
from qdit.models.roles import CORE_ROLES, select
from qdit.quant import reconstruction
from qdit.quant.activation import Activation, StaticActivation
from qdit.quant.adam import Adam
from qdit.quant.apply import calibrate_static, round_weights
from qdit.quant.learnable import LearnedScale, LearningGelu
from qdit.quant.ranges import minmax, shrink_search
from qdit.quant.reconstruction import block_units, reconstruct, reconstruct_outputs
from qdit.quant.sites import QuantizedLinear, quantize_site
from qdit.quant.unit_learning import Reconstruction, error_and_gradient
from qdit.sampling.protocol import Protocol
from tests.captured import capture
from tests.pretended_gpu import WAITS, pretended_gpu
from tests.small_models import TINY, calibration_set, inputs, random_dit

CONFIG = Reconstruction(iterations=120, batch=16, rounding_rate=1e-2, scale_rate=1e-3)
BITS = 3


@cache
def data():
    return inputs(count=48, seed=3)


def batches():
    x, timestep, label = data()
    return [(x[i : i + 16], timestep[i : i + 16], label[i : i + 16]) for i in range(0, 48, 16)]


def core(model):
    return select(model.sites(), roles=CORE_ROLES)


@cache
def rounded():
    """Rounded to nearest, static activations of 6 bits (q and p as well)."""
    model = random_dit()
    round_weights(model, core(model), bits=BITS, rule=minmax)
    sites = [*core(model), *select(model.sites(), roles=("q", "p"))]
    calibrate_static(model, sites, batches(), bits=6, rule=shrink_search)
    return model


@cache
def learned(learn):
    """The model after reconstruction, and its log."""
    model = deepcopy(rounded())
    units = block_units([*core(model), *select(model.sites(), roles=("q", "p"))])
    log = reconstruct(model, random_dit(), units, batches, CONFIG, learn=learn)
    return model, log


def output_error(model):
    with torch.inference_mode():
        full, quantized = random_dit()(*data()), model(*data())
    return float((quantized - full).square().mean())


def modules(model):
    return {site.name: model.get_submodule(site.name) for site in core(model)}


@pytest.mark.parametrize("learn", ["rounding", "scales", "both"])
def test_every_unit_and_the_whole_model_come_closer_to_full_precision(learn):
    model, log = learned(learn)
    assert [unit["name"] for unit in log["units"]] == ["blocks.0", "blocks.1"]
    assert all(unit["after"] < unit["before"] for unit in log["units"])
    assert output_error(model) < (0.99 if learn == "scales" else 0.8) * output_error(rounded())


def test_learning_both_is_better_than_learning_scales_alone():
    assert output_error(learned("both")[0]) < output_error(learned("scales")[0])


@pytest.mark.parametrize("learn", ["rounding", "both"])
def test_only_floor_and_ceiling_codes_of_the_fixed_grid_occur(learn):
    full = random_dit()
    before, after = modules(rounded()), modules(learned(learn)[0])
    changed = 0
    for name, module in after.items():
        old = before[name]
        assert type(module) is QuantizedLinear
        assert torch.equal(module.scale, old.scale) and torch.equal(module.zero_point, old.zero_point)
        position = full.get_submodule(name).weight.detach() / module.scale.float()
        code = module.weight / module.scale.float()
        assert ((code - position.floor()).abs() < 1e-3).logical_or(
            (code - position.ceil()).abs() < 1e-3
        ).float().mean() > 0.99, "all but the few that are clamped to the grid's ends"
        assert (code - position).abs().max() < 1.01
        changed += int((module.codes != old.codes).sum())
    assert changed > 0


def test_scales_alone_leave_the_weights_and_rounding_alone_leaves_the_scales():
    before = rounded().state_dict()
    for learn, ending in (("scales", "activation.scale"), ("rounding", "codes")):
        after = learned(learn)[0].state_dict()
        assert set(after) == set(before)
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed and all(key.endswith(ending) for key in changed)
        assert {key.split(".")[1] for key in changed} == {"0", "1"}


def test_scales_of_attention_operands_are_learned_too():
    before, after = rounded().state_dict(), learned("scales")[0].state_dict()
    assert not torch.equal(before["blocks.0.attn.q.activation.scale"], after["blocks.0.attn.q.activation.scale"])
    assert not torch.equal(before["blocks.1.attn.p.activation.scale"], after["blocks.1.attn.p.activation.scale"])


def test_it_is_deterministic_and_its_batches_depend_on_the_seed_alone():
    config, runs = Reconstruction(iterations=8, batch=4, rounding_rate=1e-2), []
    networks = [(deepcopy(rounded()), random_dit()) for _ in range(3)]
    for (model, reference), seed, other in zip(networks, (0, 0, 1), (1, 2, 2), strict=True):
        torch.manual_seed(other)
        state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        log = reconstruct(model, reference, block_units(core(model)), batches, config, learn="both", seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
        runs.append((model.state_dict(), log))
    (first, log), (second, again), (_, elsewhere) = runs
    assert log == again and log != elsewhere
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def steps_of_adam(device):
    """Parameters after three steps at falling rates, and the state of the optimizer."""
    values, gradients = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(0.5, 2, 36).view(3, 3, 4)
    weight = torch.nn.Parameter(values.clone().to(device))
    adam = Adam([weight])
    for rate, gradient in zip((0.1, 0.05, 0.01), gradients, strict=True):
        weight.grad = gradient.to(device)
        adam.step(rate)
    return weight.detach().cpu(), adam


def test_all_state_of_adam_lies_where_its_parameters_do():
    """On CUDA the fused step refuses counters of the CPU, which an ordinary operation would take."""
    expected, _ = steps_of_adam("cpu")
    with pretended_gpu() as gpu:
        result, adam = steps_of_adam(gpu)
        assert {state.device for state in (*adam.means, *adam.squares, *adam.steps)} == {gpu}
        assert [float(step) for step in adam.steps] == [3]
    assert torch.equal(result, expected)


def test_adam_is_that_of_the_paper():
    """Algorithm 1 of Kingma and Ba in float64."""
    weight, gradients = np.linspace(-1, 1, 12), np.linspace(0.5, 2, 36).reshape(3, 12)
    mean, square = np.zeros(12), np.zeros(12)
    for step, (rate, gradient) in enumerate(zip((0.1, 0.05, 0.01), gradients, strict=True), 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weight -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    result, _ = steps_of_adam("cpu")
    np.testing.assert_allclose(result.flatten().numpy(), weight, rtol=1e-5, atol=1e-6)


def test_the_log_has_a_learning_curve_for_every_unit():
    _, log = learned("both")
    assert set(log) == {"iterations", "batch", "units"}
    assert (log["iterations"], log["batch"]) == (CONFIG.iterations, CONFIG.batch)
    for unit in log["units"]:
        assert set(unit) == {"name", "iterations", "points", "before", "after"}
        steps = [at for at, _ in unit["points"]]
        assert steps == sorted(set(steps)) and steps[-1] == CONFIG.iterations and len(steps) == 20
        assert all(loss > 0 for _, loss in unit["points"])


def test_the_loss_is_a_sum_over_tokens_and_a_mean_over_samples_and_channels():
    """`before` of the first unit, whose input is exact, recomputed from the definition."""
    seen = {}
    for key, model in (("full", random_dit()), ("own", rounded())):
        model.blocks[0].register_forward_hook(lambda _m, _i, output, key=key: seen.__setitem__(key, output))
        with torch.inference_mode():
            model(*data())
        model.blocks[0]._forward_hooks.clear()
    expected = (seen["own"] - seen["full"]).square().sum(dim=1).mean()
    assert learned("both")[1]["units"][0]["before"] == pytest.approx(float(expected), rel=1e-4)


def test_a_units_input_comes_from_the_quantized_units_before_it():
    """`before` of the second unit: its own codes rounded to nearest, behind the first unit as learned."""
    model, log = deepcopy(learned("both")[0]), learned("both")[1]
    model.blocks[1] = deepcopy(rounded()).blocks[1]
    outputs = [capture(network, "blocks.1", batches())[1] for network in (model, random_dit())]
    expected = (outputs[0] - outputs[1]).square().sum(dim=1).mean()
    assert log["units"][1]["before"] == pytest.approx(float(expected), rel=1e-4)


class Witness(Activation):
    """Stands before an adaLN linear, whose input is a function of the timestep (and a constant label)."""

    bits = 16

    def __init__(self, context, expected):
        super().__init__()
        self.context, self.expected, self.seen = context, expected, 0

    def forward(self, x):
        torch.testing.assert_close(x, torch.stack([self.expected[int(t)] for t in self.context.timestep]))
        self.seen += 1
        return x


def test_every_row_is_computed_at_its_own_timestep():
    model, (x, timestep, _) = random_dit(), data()
    label = torch.full_like(timestep, 3)
    round_weights(model, core(model), bits=BITS, rule=minmax)
    with torch.no_grad():
        condition = torch.nn.functional.silu(model.t_embedder(timestep) + model.y_embedder(label))
    assert len(timestep.unique()) > 40
    (site,) = [site for site in select(model.sites(), roles=("adaln",)) if site.block == 0]
    witness = Witness(model.step_context, dict(zip(timestep.tolist(), condition, strict=True)))
    quantize_site(model, site, activation=witness)
    config = Reconstruction(iterations=5, batch=8, rounding_rate=1e-2)
    units = block_units([site, *core(model)])[:1]
    reconstruct(model, random_dit(), units, lambda: [(x, timestep, label)], config, learn="rounding")
    assert witness.seen == 2 + 5, "judged twice, learned five times; its input is captured before it runs"


def test_the_reference_and_the_rest_of_the_model_are_not_touched():
    model, reference = deepcopy(rounded()), random_dit()
    config = Reconstruction(iterations=3, batch=4, rounding_rate=1e-2)
    reconstruct(model, reference, block_units(core(model))[:1], batches, config, learn="both")
    assert all(torch.equal(t, random_dit().state_dict()[key]) for key, t in reference.state_dict().items())
    before = rounded().state_dict()
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items() if not key.startswith("blocks.0."))
    assert not any(module._forward_hooks for module in (*model.modules(), *reference.modules()))


def test_outputs_that_are_no_submodule_are_reconstructed_together():
    model, reference = random_dit(), random_dit()
    sites = select(model.sites(), roles=("time_embed", "adaln"))
    round_weights(model, sites, bits=BITS, rule=minmax)
    plain = deepcopy(model)
    timestep = torch.arange(0, 1000, 25)

    def outputs(network, rows):
        condition = network.t_embedder(timestep[rows])
        return torch.cat([block.adaLN_modulation(condition) for block in network.blocks], dim=1)

    log = reconstruct_outputs(model, reference, "temporal", sites, outputs, len(timestep), CONFIG)
    rows = torch.arange(len(timestep))
    with torch.no_grad():
        errors = [(outputs(net, rows) - outputs(reference, rows)).square().sum(1).mean() for net in (plain, model)]
    assert errors[1] < 0.8 * errors[0]
    (curve,) = log["units"]
    assert curve["name"] == "temporal"
    assert [curve["before"], curve["after"]] == pytest.approx([float(error) for error in errors], rel=1e-4)
    changed = {
        site.name
        for site in sites
        if not torch.equal(model.get_submodule(site.name).codes, plain.get_submodule(site.name).codes)
    }
    assert changed == {site.name for site in sites}


def test_impossible_settings_are_refused():
    for wrong in ({"iterations": 0}, {"iterations": -1}, {"batch": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            Reconstruction(**wrong)
    model = random_dit()
    with pytest.raises(ConfigError, match=r"blocks\.0: nothing to learn"):
        reconstruct(model, random_dit(), block_units(core(model)), batches, CONFIG, learn="both")


def test_the_exponent_falls_linearly_from_20_to_2_after_the_warm_up():
    config = Reconstruction(iterations=1000)
    assert config.beta(0) is None and config.beta(199) is None
    assert config.beta(200) == pytest.approx(20)
    assert config.beta(600) == pytest.approx(11)
    assert config.beta(999) == pytest.approx(2, abs=0.05)


def learned_scale(values, zero_points, per="group"):
    quantizer = StaticActivation(bits=3, scale=torch.tensor(values), zero_point=torch.tensor(zero_points), per=per)
    return LearnedScale(quantizer.double(), learn=True).double()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (learned_scale([0.5], [3]), (4, 7, 6)),
        (learned_scale([0.5, 0.8], [3, 5]), (4, 7, 6)),
        (learned_scale([0.5, 0.8], [3, 5], per="head"), (3, 2, 4, 5)),
    ],
    ids=["tensor", "group", "head"],
)
def test_learned_scale_has_lsq_gradients(module, shape):
    """Inside: ∂x̂/∂x = 1, ∂x̂/∂s = round(x/s) − x/s. Clamped: 0 and the code. Clamped ones by finite differences."""
    x = (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).requires_grad_()
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    module.scale.grad = None
    value = module(x)
    torch.testing.assert_close(value.detach(), module.quantizer(x).detach().double())
    (value * direction).sum().backward()
    scale, zero_point = module.scale.detach(), module.quantizer.zero_point.double()
    if scale.numel() > 1:
        scale, zero_point = module.quantizer.broadcast(scale, x), module.quantizer.broadcast(zero_point, x)
    codes = (x.detach() / scale).round() + zero_point
    inside = (codes >= 0) & (codes <= 7)
    assert inside.any() and (~inside).any()
    assert torch.equal(x.grad, direction * inside)
    per_element = torch.where(inside, (x.detach() / scale).round() - x.detach() / scale, codes.clamp(0, 7) - zero_point)
    places = scale.expand(shape)
    expected = torch.stack([(per_element * direction)[places == s].sum() for s in module.scale.detach()])
    torch.testing.assert_close(module.scale.grad, expected)
    step = 1e-6
    scales = module.scale.detach().clone()
    for index in range(len(scales)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                module.scale[index] += sign * step
                ends.append(module(x.detach()))
                module.scale[index] -= sign * step
        slope = (ends[0] - ends[1]) / (2 * step)
        here = ~inside & (places == scales[index])
        torch.testing.assert_close(slope[here], per_element[here], rtol=1e-5, atol=1e-5)


def test_a_scale_that_is_not_learned_gets_no_gradient_and_passes_the_inputs():
    quantizer = StaticActivation(bits=4, scale=torch.tensor([0.5]), zero_point=torch.tensor([8]))
    module = LearnedScale(quantizer, learn=False)
    x = torch.linspace(-3, 3, 13).requires_grad_()
    module(x).sum().backward()
    assert module.scale.grad is None and torch.equal(x.grad, torch.ones(13))
    assert torch.equal(module.frozen()(x), quantizer(x))


def test_units_are_the_blocks_in_order_without_what_lies_outside():
    model = random_dit()
    units = block_units(reversed(select(model.sites(), kinds=("linear",))))
    assert [unit.name for unit in units] == [f"blocks.{index}" for index in range(TINY.depth)]
    assert {site.role for site in units[0].sites} == {"adaln", "qkv", "attn_out", "fc1", "fc2"}


@pytest.mark.parametrize("power", [2.0, 2.4])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 6)])
def test_the_gradient_of_the_loss_is_that_of_autograd(power, shape):
    generator = torch.Generator().manual_seed(0)
    computed = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    losses = (computed - target).abs().pow(power)
    expected = losses.sum(dim=1).mean()
    expected.backward()
    error, gradient = error_and_gradient(computed.detach(), target, power)
    torch.testing.assert_close(error, expected.detach())
    torch.testing.assert_close(gradient, computed.grad)


def test_compiled_scales_and_gelu_have_the_gradients_of_torch(monkeypatch):
    quantizer = StaticActivation(bits=4, scale=torch.tensor([0.3]), zero_point=torch.tensor([7]))
    x = 2 * torch.randn(37, 45, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(37, 45, generator=torch.Generator().manual_seed(1))
    results = []
    for backend in ("torch", ""):
        monkeypatch.setenv("QDIT_KERNELS", backend)
        forced.cache_clear()
        module, inputs = LearnedScale(quantizer, learn=True), x.clone().requires_grad_()
        value = module(inputs)
        (value * direction).sum().backward()
        activated = x.clone().requires_grad_()
        activation = LearningGelu()(activated)
        (activation * direction).sum().backward()
        results.append([value, inputs.grad, module.scale.grad, activation, activated.grad])
    for expected, result in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_it_ends_where_all_roundings_have_decided():
    """A regularizer that is strong from the first step on decides early; the log counts the iterations."""
    config = Reconstruction(400, 16, rounding_rate=0.1, regularization=10.0, warmup=0.0, betas=(2.0, 2.0))
    model = random_dit()
    round_weights(model, core(model), bits=BITS, rule=minmax)
    log = reconstruct(model, random_dit(), block_units(core(model))[:1], batches, config, learn="rounding")
    (unit,) = log["units"]
    assert unit["iterations"] < 400 and unit["points"][-1][0] == unit["iterations"]


def waits(iterations, learn):
    """How often a program waits for the GPU in the reconstruction of a block."""
    model, reference = deepcopy(rounded()), random_dit()
    with pretended_gpu() as gpu:
        model, reference = model.to(gpu), reference.to(gpu)
        there = [tuple(tensor.to(gpu) for tensor in batch) for batch in batches()]
        units = block_units([*core(model), *select(model.sites(), roles=("q", "p"))])[:1]
        WAITS.clear()
        reconstruct(model, reference, units, lambda: there, replace(CONFIG, iterations=iterations), learn=learn)
        return len(WAITS)


CI_ONLY = [pytest.param(learn, marks=pytest.mark.ci) for learn in ("rounding", "scales")]


@pytest.mark.parametrize("learn", ["both", *CI_ONLY])
def test_no_iteration_waits_for_the_gpu(learn):
    """Values are read once for each point of a learning curve, of which there are as many for more iterations."""
    assert waits(20, learn) == waits(60, learn) > 0


@pytest.mark.parametrize("matmul", ["float32", "tf32"])
def test_tensor_float_32_is_used_while_learning_only_and_is_recorded(matmul, monkeypatch):
    seen, optimize = [], reconstruction.optimize
    monkeypatch.setattr(
        reconstruction,
        "optimize",
        lambda *a, **k: (seen.append(torch.backends.cuda.matmul.allow_tf32), optimize(*a, **k))[1],
    )
    model, reference = deepcopy(rounded()), random_dit()
    with pretended_gpu() as gpu:
        there = [tuple(tensor.to(gpu) for tensor in batch) for batch in batches()]
        config = Reconstruction(iterations=2, batch=4, matmul=matmul)
        units = block_units(core(model))[:1]
        log = reconstruct(model.to(gpu), reference.to(gpu), units, lambda: there, config, learn="rounding")
    assert seen == [matmul == "tf32"] and not torch.backends.cuda.matmul.allow_tf32
    assert log.get("matmul", "float32") == matmul


def test_tensor_float_32_is_refused_on_a_cpu():
    config = Reconstruction(iterations=2, batch=4, matmul="tf32")
    model = deepcopy(rounded())
    with pytest.raises(ConfigError, match="CPUs have no TensorFloat-32"):
        reconstruct(model, random_dit(), block_units(core(model)), batches, config, learn="rounding")


@pytest.mark.parametrize("method", ["tfmq-dm", "ptq4dit", "q-diffusion", "ptqd"])
def test_every_method_that_learns_hands_its_arithmetic_on(method):
    options = {"matmul": "tf32", "iterations": 2, "batch": 4}
    protocol = Protocol("ddpm", 4, 1.5, 0)
    data = {kind: calibration_set(kind, samples=4, protocol=protocol) for kind in registry()[method].calibration}
    with pytest.raises(ConfigError, match="CPUs have no TensorFloat-32"):
        quantize_model(random_dit(), method, weight_bits=8, activation_bits=8, calibration=data, options=options)
