"""The compiled search for the grid with the smallest error against float64, in every variant of the library."""

import pytest
import torch
from torch import Tensor

from qdit.kernels import learning
from qdit.kernels.backend import Backend
from qdit.kernels.library import backend
from qdit.quant import search
from qdit.quant.ranges import percentile_search, shrink_search, threshold_search

pytestmark = pytest.mark.skipif(backend().library is None, reason="needs the compiled library")


def grids(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    low, high = rows.aminmax(dim=1, keepdim=True)
    shrink = torch.linspace(1, 0.2, count)
    scale = (high - low) * shrink / 15
    return scale, (-low * shrink / scale).round()


def errors(rows: Tensor, scales: Tensor, zero_points: Tensor, levels: int, power: float) -> Tensor:
    """(R, C) sums of |x − x̂|^power; codes as float32 has them, everything after in float64."""
    columns = []
    for scale, zero_point in zip(scales.split(1, 1), zero_points.split(1, 1), strict=True):
        codes = ((rows / scale).round() + zero_point).clamp(0, levels).double()
        value = (codes - zero_point.double()) * scale.double()
        columns.append((value - rows.double()).abs().pow(power).sum(dim=1))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("power", [2.0, 2.4, 1.0])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (7, 15), (5, 16), (3, 1040), (1, 8192), (2, 50_000)])
def test_the_chosen_grid_has_the_smallest_error(power: float, count: int, width: int) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(width)) ** 3
    rows = torch.cat([rows, torch.zeros(count, 1)], dim=1)  # a value that every grid has
    scales, zero_points = grids(rows, 40)
    index = search.lowest_error(rows, scales, zero_points, 4, power=power)
    exact = errors(rows, scales, zero_points, 15, power)
    assert (exact.gather(1, index) <= exact.amin(dim=1, keepdim=True) * (1 + 2e-5)).all()


def test_all_variants_choose_the_same() -> None:
    used, rows = backend(), torch.randn(3, 20_001, generator=torch.Generator().manual_seed(1))
    scales, zero_points = grids(rows, 60)
    chosen = [
        learning.lowest_error(one, rows, scales, zero_points, levels=15, power=2.4, default=0)
        for one in (Backend("scalar", used.library), used)
    ]
    assert torch.equal(*chosen)


@pytest.mark.parametrize("function", [percentile_search, shrink_search, threshold_search])
def test_the_ranges_are_those_of_torch_or_as_good(function, monkeypatch) -> None:
    rows = torch.randn(50, 300, generator=torch.Generator().manual_seed(5))
    compiled = function(rows, 4)
    monkeypatch.setattr(search, "learning_backend", lambda *_: None)
    power = 2.0 if function is percentile_search else 2.4
    ours, theirs = (errors(rows, *found, 15, power) for found in (compiled, function(rows, 4)))
    assert (ours <= theirs * (1 + 2e-5)).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_leaves_the_default(bad: float) -> None:
    row = torch.ones(1, 20_000)
    row[0, 17_000] = bad
    assert search.lowest_error(row, torch.ones(1, 4), torch.zeros(1, 4), 4, power=2.4, default=3).item() == 3


def test_errors_beyond_float32_never_win() -> None:
    row = torch.tensor([[1e30, 1.0]])
    scales = torch.tensor([[1.0, 1e29]])
    assert search.lowest_error(row, scales, torch.zeros(1, 2), 8, power=2.4).item() == 1
    assert search.lowest_error(row, scales[:, :1], torch.zeros(1, 1), 8, power=2.4, default=5).item() == 5
