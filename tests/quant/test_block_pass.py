"""A DiT block with its gradients written out: values and gradients are those of torch in float64."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qdit.core.affine import Granularity
from qdit.kernels.backend import forcing
from qdit.kernels.block import GRIDS, Stage
from qdit.kernels.library import available, backend
from qdit.models.config import DiTConfig
from qdit.models.dit import DiTBlock
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import DynamicActivation, FactoredActivation, StaticActivation
from qdit.quant.apply import calibrate_static, round_weights
from qdit.quant.block_pass import BlockPass, block_pass
from qdit.quant.learnable import LearnedScale, LearningGelu, SoftLinear
from qdit.quant.ranges import minmax
from qdit.quant.reconstruction import block_units, reconstruct
from qdit.quant.sites import FoldedLayerNorm, QuantizedLinear, QuantizedOperand
from qdit.quant.store import Rows, RowStore
from qdit.quant.transforms import Chain, Divide
from qdit.quant.unit_learning import Autograd, Reconstruction, error_and_gradient
from qdit.quant.weight import quantize_weight
from tests.small_models import inputs, random_dit

pytestmark = pytest.mark.skipif(backend().library is None, reason="needs the compiled library")
SAMPLES = 6


@dataclass(frozen=True)
class Case:
    """Shape of a block, and what of it is learned."""

    heads: int = 2
    channels: int = 24
    tokens: int = 16
    batch: int = 3
    ratio: int = 4
    learn: str = "both"
    inputs_bits: int | None = 4
    operand_bits: int | None = None
    modulation: bool = False
    factor: bool = False
    power: float = 2.0
    seed: int = 0


def numbers(case: Case, *shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(10 * case.seed + seed))


def static(bits: int, *, scale: float, zero_point: int) -> StaticActivation:
    return StaticActivation(bits=bits, scale=torch.tensor([scale]), zero_point=torch.tensor([zero_point]))


def soft(case: Case, linear: nn.Linear, *, scale: float = 0.4, zero_point: int = 6) -> SoftLinear:
    """A linear in training with 4-bit weights."""
    weight = linear.weight.detach()
    stored = quantize_weight(weight, bits=4, granularity=Granularity("channel"), ranges=minmax)
    activation = None
    if case.inputs_bits is not None:
        activation = static(case.inputs_bits, scale=scale, zero_point=zero_point)
    module = QuantizedLinear(weight=stored, bias=linear.bias, activation=activation)
    learns = {"learn_rounding": case.learn != "scales", "learn_scale": case.learn != "rounding"}
    return SoftLinear(weight, module, **learns)


def operand(case: Case, name: str) -> nn.Module:
    """A quantized operand in training; many values lie outside the range."""
    bits = case.operand_bits
    if bits is None:
        return nn.Identity()
    quantizer = (
        static(bits, scale=0.3, zero_point=2 ** (bits - 1)) if name != "p" else static(bits, scale=0.05, zero_point=0)
    )
    if name == "v" and case.factor:
        factor = numbers(case, case.heads, 1, case.channels, seed=7).abs() + 0.5
        quantizer = FactoredActivation(bits=bits, scale=quantizer.scale, zero_point=quantizer.zero_point, factor=factor)
    learned = LearnedScale(quantizer, learn=case.learn != "rounding")
    return QuantizedOperand(learned)  # type: ignore[arg-type]


def block_of(case: Case) -> DiTBlock:
    width = case.heads * case.channels
    block = DiTBlock(DiTConfig(hidden_size=width, num_heads=case.heads, mlp_ratio=case.ratio))
    for number, parameter in enumerate(block.parameters()):
        spread = 0.3 if parameter.dim() == 1 else parameter.shape[1] ** -0.5
        parameter.data = spread * numbers(case, *parameter.shape, seed=20 + number)
    block.requires_grad_(False)
    block.attn.qkv, block.attn.proj = soft(case, block.attn.qkv), soft(case, block.attn.proj, scale=0.1)
    block.mlp.fc1, block.mlp.fc2 = soft(case, block.mlp.fc1), soft(case, block.mlp.fc2, scale=0.1, zero_point=2)
    block.mlp.act = LearningGelu()
    for name in ("q", "k", "p", "v"):
        setattr(block.attn, name, operand(case, name))
    if case.modulation:
        block.adaLN_modulation[1] = soft(case, block.adaLN_modulation[1], scale=0.1)
    return block


def stores_of(case: Case) -> tuple[RowStore, RowStore, RowStore]:
    width = case.heads * case.channels
    tokens, targets = (numbers(case, SAMPLES, case.tokens, width, seed=seed) for seed in (1, 2))
    return RowStore.of(tokens), RowStore.of(numbers(case, SAMPLES, width, seed=3)), RowStore.of(targets)


def learned_in(block: nn.Module) -> dict[str, nn.Parameter]:
    """All values that are learned, by name."""
    values = {}
    for name, module in block.named_modules():
        if isinstance(module, SoftLinear) and module.rounding is not None:
            values[f"{name}.weight"] = module.rounding.weight
        if isinstance(module, LearnedScale) and module.scale.requires_grad:
            values[f"{name}.scale"] = module.scale
    return values


def taken_gradients(block: nn.Module) -> dict[str, Tensor]:
    gradients = {name: value.grad.clone() for name, value in learned_in(block).items() if value.grad is not None}
    assert gradients.keys() == learned_in(block).keys()
    return gradients


class Replayed(nn.Module):
    """A quantizer in float64 whose codes are those that float32 found: a code beside a tie cannot differ."""

    def __init__(self, learned: LearnedScale, codes: Tensor) -> None:
        super().__init__()
        self.quantizer, self.codes = learned.quantizer, codes.double()
        self.scale = nn.Parameter(learned.scale.detach().double(), requires_grad=learned.scale.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.quantizer.factor.double() if isinstance(self.quantizer, FactoredActivation) else 1.0
        zero_point, levels = self.quantizer.zero_point.double(), 2**self.quantizer.bits - 1
        inside = (self.codes >= 0) & (self.codes <= levels)
        ratio = x * factor / self.scale
        code_less_zero = torch.where(inside, (self.codes - zero_point - ratio).detach() + ratio, 0.0)
        clamped = self.codes.clamp(0, levels) - zero_point
        return torch.where(inside, code_less_zero, clamped) * self.scale / factor


def raw_codes(x: Tensor, learned: LearnedScale) -> Tensor:
    """Codes before they are clamped, as float32 computes them."""
    return (learned.quantizer.entered(x) / learned.scale.detach()).round() + learned.quantizer.zero_point


def inputs_of_quantizers(case: Case, written: BlockPass) -> list[Tensor]:
    """What the quantizers of `GRIDS` got in float32, in the shapes of the modules."""
    buffers = written.buffers
    assert buffers is not None
    entered = buffers._kept[0]
    shape = (case.batch, case.tokens, 3, case.heads, case.channels)
    q, k, v = buffers.output[0].view(shape).permute(2, 0, 3, 1, 4)
    padded = -(-case.tokens // 16) * 16
    weights = buffers._kept[1]["weights"].view(case.batch, case.heads, case.tokens, padded)
    p = weights[..., : case.tokens].transpose(2, 3)
    return [*(x.view(case.batch, case.tokens, -1) for x in entered), q, k, p, v]


def in_float64(case: Case, block: DiTBlock, written: BlockPass) -> DiTBlock:
    """The block in float64, with the codes that float32 found."""
    exact = deepcopy(block)
    names = [f"{'attn' if n in ('qkv', 'proj') else 'mlp'}.{n}" for n in GRIDS[:4]]
    names += [f"attn.{name}" for name in GRIDS[4:]]
    for name, x in zip(names, inputs_of_quantizers(case, written), strict=True):
        module = exact.get_submodule(name)
        if isinstance(getattr(module, "activation", None), LearnedScale):
            module.activation = Replayed(module.activation, raw_codes(x, module.activation))
    if written.modulation is not None and written.modulation.scale is not None:
        linear = exact.adaLN_modulation[1]
        linear.activation = Replayed(linear.activation, raw_codes(written.modulation.entered, linear.activation))
    exact = exact.double()
    for module in exact.modules():
        if isinstance(module, SoftLinear) and module.rounding is not None:
            module.rounding.weight = nn.Parameter(module.rounding.weight.detach().double())
    return exact


def exact_gradients(exact: DiTBlock) -> dict[str, Tensor]:
    """Gradients by autograd in float64."""
    gradients = {}
    for name, module in exact.named_modules():
        if isinstance(module, SoftLinear) and module.rounding is not None:
            gradients[f"{name}.weight"] = module.rounding.weight.grad
        if isinstance(module, Replayed) and module.scale.requires_grad:
            gradients[f"{name}.scale"] = module.scale.grad
    return gradients


cases = st.builds(
    Case,
    heads=st.sampled_from([2, 4]),
    channels=st.sampled_from([8, 12, 20, 24, 72]),
    tokens=st.integers(1, 33),
    batch=st.integers(1, 5),
    ratio=st.sampled_from([1, 2, 4]),
    learn=st.sampled_from(["rounding", "both", "scales"]),
    inputs_bits=st.sampled_from([4, 8]),
    operand_bits=st.sampled_from([None, 4, 8]),
    modulation=st.booleans(),
    factor=st.booleans(),
    power=st.sampled_from([2.0, 2.4]),
    seed=st.integers(0, 9),
).filter(lambda case: case.heads * case.channels % 16 == 0)


@given(case=cases)
@example(case=Case(heads=6, batch=4, learn="rounding", inputs_bits=None))
@example(case=Case(heads=6, batch=4))
@example(case=Case(heads=4, channels=12, tokens=17, operand_bits=8, modulation=True, factor=True, power=2.4))
@example(case=Case(operand_bits=4, modulation=True, learn="rounding"))
@example(case=Case(operand_bits=8, learn="scales", power=2.4))
@settings(max_examples=15, deadline=None)
def test_error_and_gradients_are_those_of_float64(case: Case) -> None:
    block, (tokens, conditions, targets) = block_of(case), stores_of(case)
    written = block_pass(block, (tokens, conditions))
    assert written is not None
    rows = Rows.of(
        torch.randint(SAMPLES, (case.batch,), generator=torch.Generator().manual_seed(4)), torch.device("cpu")
    )
    error = written.gradients(rows, targets, case.power)
    gradients, exact = taken_gradients(block), in_float64(case, block, written)
    y = exact(tokens.whole()[rows.on_cpu].double(), conditions.whole()[rows.on_cpu].double())
    expected_error, of_y = error_and_gradient(y.detach(), targets.whole()[rows.on_cpu].double(), case.power)
    y.backward(of_y)
    assert float(error) == pytest.approx(float(expected_error), rel=1e-5)
    expected = exact_gradients(exact)
    assert gradients.keys() == expected.keys() and len(expected) >= 4
    for name, gradient in gradients.items():
        if name.endswith("scale"):  # a sum of many terms that cancel
            continue
        distance = (gradient.double() - expected[name]).norm() / expected[name].norm()
        assert distance < 1e-5, f"{name}: {distance:.1e}"
    of_scales = torch.tensor([[float(gradients[n]), float(expected[n])] for n in gradients if n.endswith("scale")])
    if len(of_scales):
        torch.testing.assert_close(
            of_scales[:, 0], of_scales[:, 1], rtol=1e-4, atol=1e-5 * float(of_scales.abs().max())
        )


def test_all_variants_of_the_library_give_the_same_bits() -> None:
    case, results = Case(tokens=19, operand_bits=8, modulation=True, factor=True, power=2.4), []
    for name in (name for name in available() if name != "torch"):
        block, (tokens, conditions, targets) = block_of(case), stores_of(case)
        with forcing(name):
            written = block_pass(block, (tokens, conditions))
        assert written is not None
        error = written.gradients(Rows.of(torch.tensor([3, 0, 3]), torch.device("cpu")), targets, case.power)
        results.append((error, taken_gradients(block)))
    for error, gradients in results[1:]:
        assert torch.equal(error, results[0][0])
        assert all(torch.equal(gradient, results[0][1][name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("learn", ["both", "scales"])
def test_it_learns_what_torch_learns(learn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves agree until the regularizer turns rounding errors into other codes; then the losses are alike."""
    curves, batch = [], inputs(count=32, seed=3)
    for written in (True, False):
        if not written:
            monkeypatch.setattr("qdit.quant.reconstruction.block_pass", lambda *_: None)
        model = random_dit()
        sites = select(model.sites(), roles=CORE_ROLES)
        round_weights(model, sites, bits=3, rule=minmax)
        calibrate_static(model, sites, [batch], bits=6, rule=minmax)
        config = Reconstruction(iterations=40, batch=8, rounding_rate=2e-2, scale_rate=1e-3, warmup=0.5)
        log = reconstruct(model, random_dit(), block_units(sites)[:1], lambda: [batch], config, learn=learn)
        (unit,) = log["units"]
        curves.append([unit["before"], *(loss for _, loss in unit["points"]), unit["after"]])
    warm_up = 1 + 10  # a point for every second iteration
    torch.testing.assert_close(torch.tensor(curves[0][:warm_up]), torch.tensor(curves[1][:warm_up]), rtol=1e-2, atol=0)
    assert curves[0][-1] < curves[0][0] and curves[0][-1] == pytest.approx(curves[1][-1], rel=0.15)


def test_blocks_of_our_dit_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this test, a change of the modules could silently leave every block to torch."""
    stages: list[Stage] = []
    monkeypatch.setattr("qdit.kernels.block.BlockBuffers.run", lambda _self, stage: stages.append(stage))
    model, batch = random_dit(), inputs(count=8)
    sites = select(model.sites(), roles=CORE_ROLES)
    round_weights(model, sites, bits=4, rule=minmax)
    config = Reconstruction(iterations=1, batch=4)
    monkeypatch.setattr("qdit.quant.rounding.RoundingSteps.step", lambda *_: None)  # the gradients are not computed
    reconstruct(model, random_dit(), block_units(sites)[:1], lambda: [batch], config, learn="rounding")
    assert stages == [*list(Stage)[:5], *list(Stage)[5:8]]


def test_what_is_of_another_kind_is_left_to_torch() -> None:
    case = Case(operand_bits=8, modulation=True)
    tokens, conditions, _ = stores_of(case)
    assert isinstance(block_pass(block_of(case), (tokens, conditions)), BlockPass)
    with forcing("torch"):
        assert block_pass(block_of(case), (tokens, conditions)) is None
    assert block_pass(block_of(case).mlp, (tokens, conditions)) is None
    assert block_pass(block_of(case), (tokens,)) is None
    assert block_pass(block_of(case), (RowStore.of(tokens.whole().double()), conditions)) is None
    for change in CHANGES:
        block = block_of(case)
        change(block)
        assert block_pass(block, (tokens, conditions)) is None, change.__name__
    narrow = Case(heads=2, channels=12)  # a width of 24 is no multiple of 16
    assert block_pass(block_of(narrow), stores_of(narrow)[:2]) is None


def folded_norm(block: DiTBlock) -> None:
    block.norm1 = FoldedLayerNorm(inverse=torch.ones(48), offset=torch.zeros(48))


def plain_linear(block: DiTBlock) -> None:
    block.mlp.fc1 = nn.Linear(48, 192)


def transformed(block: DiTBlock) -> None:
    block.mlp.fc1.transform = Chain([Divide(torch.full((48,), 2.0))])


def two_scales(block: DiTBlock) -> None:
    quantizer = StaticActivation(bits=8, scale=torch.ones(2), zero_point=torch.zeros(2))
    block.attn.proj.activation = LearnedScale(quantizer, learn=True)


def exact_gelu(block: DiTBlock) -> None:
    block.mlp.act = nn.GELU()


def dynamic_operand(block: DiTBlock) -> None:
    block.attn.k = QuantizedOperand(DynamicActivation(bits=8, group_size=None))


CHANGES = [folded_norm, plain_linear, transformed, two_scales, exact_gelu, dynamic_operand]


def test_torch_computes_a_unit_that_is_left_to_it() -> None:
    case = Case()
    block, (tokens, conditions, targets) = block_of(case), stores_of(case)
    rows = Rows.of(torch.tensor([1, 4]), torch.device("cpu"))
    error = Autograd(lambda rows: block(tokens[rows], conditions[rows])).gradients(rows, targets, 2.0)
    expected, of_torch = taken_gradients(block), float(error)
    for value in learned_in(block).values():
        value.grad = None
    written = block_pass(block, (tokens, conditions))
    assert written is not None
    assert float(written.gradients(rows, targets, 2.0)) == pytest.approx(of_torch, rel=1e-2)
    for name, gradient in taken_gradients(block).items():
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0) > 0.99
