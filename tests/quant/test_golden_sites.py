"""Smoothing, branches and number formats beside the programs of their authors, on arrays that these programs made.

tests/golden/sites has one file for each program. Its functions were called on random inputs, outside this repository:

- deepcompressor.npz: mit-han-lab/deepcompressor 69f3473. `SmoothCalibConfig.get_alpha_beta_pairs` with the numbers of
  configs/svdquant, `get_smooth_scale`, `LowRankBranch`, and the loop of `QuantLowRankCalibrator` (rank 4, 100 turns,
  early stop) with the quantizer `levels` of this file and the squared error of the output.
- ditas.npz: DZY122/DiTAS 665c7eb. `weight_quant_fn` ("asymmetric", 4 bits), `low_rank_decomposition`, and
  `replace_module` with rank 5 on one linear.
- viditq.npz: thu-nics/ViDiT-Q 44126bd. `QuantLayer.forward` of quant_layer_pixart.py on three batches, α 0.3.
- mx.npz: microsoft/microxcaling 7bc4195. `_quantize_mx` with 8 scale bits and `round="even"`.
- nvfp4.npz: torchao 0.18.0 from PyPI. `per_tensor_amax_to_scale` and `nvfp4_quantize` with this scale.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines.vidit_q import MOMENTUM, ViditQOptions
from qdit.core.files import load_arrays
from qdit.quant.alternating import compensated, refined
from qdit.quant.grid_activations import MxActivation
from qdit.quant.grid_weights import mx_weight, nvfp4_weight
from qdit.quant.low_rank import low_rank
from qdit.quant.smoothing import complementary, inputs_only, smoothing_factor

FOLDER = Path(__file__).parents[1] / "golden" / "sites"


def arrays_of(program: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in load_arrays(FOLDER / f"{program}.npz").items()}


@dataclass(frozen=True)
class Rounded:
    """A weight that a test rounded itself."""

    values: Tensor

    def dequantize(self) -> Tensor:
        return self.values


def levels(weight: Tensor) -> Rounded:
    """15 levels around zero for each row and group of 8 inputs."""
    rows = weight.reshape(-1, 8)
    step = rows.abs().amax(dim=1, keepdim=True) / 7
    return Rounded(((rows / step).round().clamp(-7, 7) * step).reshape(weight.shape))


def asymmetric(weight: Tensor) -> Rounded:
    """DiTAS: 32 outputs share a range for each input; 16 codes whose step is the range / 16."""
    shared = weight.reshape(32, -1)
    low, high = shared.aminmax(dim=0, keepdim=True)
    step = (high - low) / 16
    zero = (low / step).round() * step
    return Rounded((((shared - zero) / step).round().clamp(0, 15) * step + zero).reshape(weight.shape))


def test_svdquants_grid_and_factors() -> None:
    arrays = arrays_of("deepcompressor")
    grid = [(0.0, 0.0), *inputs_only(20), *complementary(20)]
    torch.testing.assert_close(torch.tensor(grid, dtype=torch.float64), arrays["pairs"])
    of_inputs, of_weight = arrays["X"].abs().amax(dim=0), arrays["W"].abs().amax(dim=0)
    for (alpha, beta), scale in zip(grid[1:], arrays["scales"], strict=True):
        factor = smoothing_factor(of_inputs, of_weight, alpha, beta)
        torch.testing.assert_close(factor, scale / scale.log().mean().exp(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_svdquants_branch(rank: int) -> None:
    arrays = arrays_of("deepcompressor")
    torch.testing.assert_close(low_rank(arrays["W"], rank).product(), arrays[f"branch_r{rank}"], rtol=0, atol=2e-3)


@dataclass(frozen=True)
class Exact:
    """A branch that a test did not round to float16."""

    values: Tensor

    def product(self) -> Tensor:
        return self.values


@pytest.fixture
def exact_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors in float64, since the programs do not round theirs: one changed code changes all turns after it."""

    def exact(weight: Tensor, rank: int) -> Exact:
        left, singular, right = torch.linalg.svd(weight.double(), full_matrices=False)
        return Exact((left[:, :rank] * singular[:rank] @ right[:rank]).float())

    monkeypatch.setattr("qdit.quant.alternating.low_rank", exact)


@pytest.mark.usefixtures("exact_branches")
def test_svdquants_refinement() -> None:
    """The same error at each turn, the same last turn, and the same branch."""
    arrays, errors, weights = arrays_of("deepcompressor"), [], []
    inputs, weight = arrays["X"], arrays["W"]

    def error(rounded, branch):
        weights.append(rounded + branch.product())
        errors.append(float((inputs @ weights[-1].t() - inputs @ weight.t()).square().sum()))
        return errors[-1]

    best = refined(weight, 4, levels, error, turns=100)
    assert errors == pytest.approx(arrays["errors"].tolist(), rel=1e-4)
    assert len(errors) == 6 and errors[5] > errors[4] == min(errors)
    torch.testing.assert_close(torch.stack(weights[:3]), arrays["first_turns"], rtol=0, atol=1e-4)
    torch.testing.assert_close(best.product(), arrays["best_branch"], rtol=0, atol=1e-4)


@pytest.mark.usefixtures("exact_branches")
def test_ditas_turns() -> None:
    arrays = arrays_of("ditas")
    weight = arrays["W"]
    torch.testing.assert_close(asymmetric(weight).values, arrays["rounded_once"])
    torch.testing.assert_close(compensated(weight, 5, asymmetric, turns=1)[0].values, arrays["rounded_once"])
    stored, branch = compensated(weight, 5, asymmetric, turns=10)
    torch.testing.assert_close(stored.values, arrays["codes_of_ten_turns"], rtol=0, atol=1e-4)
    torch.testing.assert_close(branch.product(), arrays["branch_of_ten_turns"], rtol=0, atol=1e-4)


def test_ditas_branch() -> None:
    arrays = arrays_of("ditas")
    torch.testing.assert_close(low_rank(arrays["W"], 5).product(), arrays["branch_r5"], rtol=0, atol=2e-3)


def test_viditqs_balance() -> None:
    arrays = arrays_of("viditq")
    running = None
    for batch in arrays["X"]:
        current = batch.abs().amax(dim=-2).mean(dim=0)
        running = current if running is None else MOMENTUM * running + (1 - MOMENTUM) * current
    torch.testing.assert_close(running, arrays["act_scale"])
    factor = smoothing_factor(arrays["act_scale"], arrays["W"].abs().amax(dim=0), ViditQOptions().alpha)
    theirs = (arrays["balanced_weight"] / arrays["W"]).mean(dim=0)
    torch.testing.assert_close(factor, theirs / theirs.log().mean().exp())
    torch.testing.assert_close(arrays["X"][-1] / theirs, arrays["balanced_input"])


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("element", ["e2m1", "e2m3", "e3m2", "e4m3", "e5m2"])
def test_mx_formats(element: str, block_size: int) -> None:
    arrays = arrays_of("mx")
    expected = arrays[f"{element}_b{block_size}"]
    assert torch.equal(mx_weight(arrays["W"], element=element, block_size=block_size).dequantize(), expected)
    assert torch.equal(MxActivation(element=element, block_size=block_size)(arrays["W"]), expected)


def test_nvfp4() -> None:
    arrays = arrays_of("nvfp4")
    ours = nvfp4_weight(arrays["W"])
    torch.testing.assert_close(ours.dequantize(), arrays["values"], rtol=1e-6, atol=0)
