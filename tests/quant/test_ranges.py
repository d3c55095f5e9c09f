"""Range searches against brute force in NumPy, at their edges, and on rows that are too long to sort or to hold."""

import numpy as np
import pytest
import torch

from qdit.core.affine import fake_quantize
from qdit.quant import search
from qdit.quant.quantiles import at_ends, quantiles
from qdit.quant.ranges import (
    ema,
    extremes,
    minmax,
    minmax_search,
    percentile_search,
    raw_minmax,
    running_parameters,
    shrink_search,
    side_of,
    threshold_parameters,
    threshold_range,
    threshold_range_2d,
    threshold_search,
    zero_minmax,
)

SEARCHES = (percentile_search, shrink_search, minmax_search, threshold_search)


def rows_of(seed: int, count: int = 5, width: int = 200) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_t(3, (count, width)).astype(np.float32))


def error_of(x: np.ndarray, scale: float, zero_point: float, bits: int, power: float) -> float:
    """Mean |x − x̂|^power in float64."""
    values = (np.clip(np.rint(x / scale) + zero_point, 0, 2**bits - 1) - zero_point) * scale
    return float(np.mean(np.abs(x - values) ** power))


def candidates(kind: str, x: np.ndarray, bits: int) -> list[tuple[float, float]]:
    """Every (scale, zero_point) of a search, written as the specification states it."""
    levels = 2**bits - 1
    low, high = x.min(), x.max()
    if kind == "percentile":
        edges = [(np.quantile(x, 1 - p), np.quantile(x, p)) for p in (0.999, 0.9999, 0.99999)]
    elif kind == "shrink":
        edges = [((1 - 0.01 * i) * low, (1 - 0.01 * i) * high) for i in range(80)]
    elif kind == "minmax":
        edges = [((1 - 0.001 * i) * min(low, 0), (1 - 0.001 * i) * max(high, 0)) for i in range(100)]
    else:  # threshold / scale is half of an odd number: float32 decides to which side it rounds
        top = np.float32(max(-low, high))
        thresholds = top / np.float32(100) * np.arange(1, 101, dtype=np.float32)
        scales = (thresholds + thresholds) / np.float32(levels)
        return list(zip(scales.astype(float), np.rint(thresholds / scales).astype(float), strict=True))
    result = [((top - base) / levels, -base / ((top - base) / levels)) for base, top in edges]
    return [(s, np.rint(z)) for s, z in result]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("kind", "function", "power"),
    [
        ("percentile", percentile_search, 2.0),
        ("shrink", shrink_search, 2.4),
        ("minmax", minmax_search, 2.4),
        ("threshold", threshold_search, 2.4),
    ],
)
def test_searches_find_what_brute_force_finds(kind: str, function, power: float, bits: int) -> None:
    rows = rows_of(bits)
    scale, zero_point = function(rows, bits)
    assert scale.shape == zero_point.shape == (5, 1)
    for row, s, z in zip(rows.double().numpy(), scale, zero_point, strict=True):
        allowed = candidates(kind, row, bits)
        assert min(abs(s.item() - c) / c + abs(z.item() - p) for c, p in allowed) < 1e-4
        best = min(error_of(row, c, p, bits, power) for c, p in allowed)
        assert error_of(row, s.item(), z.item(), bits, power) <= best * (1 + 1e-4)


def test_searches_treat_rows_independently_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(1, 7, 64)
    whole = [torch.cat(f(rows, 4)) for f in SEARCHES]
    single = [torch.cat([torch.cat(p) for p in zip(*[f(r[None], 4) for r in rows], strict=True)]) for f in SEARCHES]
    monkeypatch.setattr(search, "CPU_BLOCK", 100)
    small = [torch.cat(f(rows, 4)) for f in SEARCHES]
    monkeypatch.setattr(search, "CPU_BLOCK", 10)
    blocked = [torch.cat(f(rows, 4)) for f in SEARCHES]
    for a, b, c, d in zip(whole, single, small, blocked, strict=True):
        assert torch.equal(a, c)
        assert torch.allclose(a, d)
        assert torch.equal(a.sort(0).values, b.sort(0).values)


@pytest.mark.parametrize("function", [percentile_search, shrink_search, threshold_search])
@pytest.mark.parametrize("bits", [3, 8])
def test_giving_up_candidates_early_does_not_change_the_winner(function, bits: int, monkeypatch) -> None:
    row = rows_of(2, 1, 5000)
    full = function(row, bits)
    monkeypatch.setattr(search, "CPU_BLOCK", 64)
    assert all(torch.equal(a, b) for a, b in zip(full, function(row, bits), strict=True))


@pytest.mark.parametrize("width", [50, 5000])
def test_of_equal_candidates_the_first_wins_and_hopeless_ones_never(width: int, monkeypatch) -> None:
    monkeypatch.setattr(search, "CPU_BLOCK", 64)
    row = rows_of(8, 1, width)
    scale = torch.tensor([[0.0, 9.0, 0.3, 0.3, torch.inf]])
    zero_point = torch.full((1, 5), 8.0)
    assert search.lowest_error(row, scale, zero_point, 4, power=2.4).item() == 2
    hopeless = search.lowest_error(row, torch.zeros(1, 3), torch.full((1, 3), torch.nan), 4, power=2.4, default=1)
    assert hopeless.item() == 1


@pytest.mark.parametrize("fractions", [[0.999, 0.9999, 0.99999], [0.001, 0.5], [0.0, 1.0]])
@pytest.mark.parametrize("width", [1, 2, 7, 1000])
def test_quantiles_are_torch_quantiles(width: int, fractions: list[float]) -> None:
    rows = rows_of(3, 4, width)
    expected = torch.stack([torch.quantile(rows, f, dim=1) for f in fractions], dim=1)
    assert torch.equal(quantiles(rows, fractions), expected)


@pytest.mark.parametrize("function", [percentile_search, shrink_search, threshold_search])
def test_rows_beyond_torch_quantiles_limit(function) -> None:
    """2^24 + 3 values; a uniform distribution, so that the best range is known: nearly all of it."""
    x = torch.arange(2**24 + 3, dtype=torch.float32).div_(2**23).sub_(1)[None]
    scale, zero_point = function(x, 4)
    assert scale.item() == pytest.approx(2 / 15, rel=0.05)
    assert zero_point.item() in (7, 8)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("function", [*SEARCHES, minmax, zero_minmax, raw_minmax])
def test_constant_zero_tiny_and_huge_rows_stay_finite(function, bits: int) -> None:
    rows = torch.stack([torch.full((32,), v) for v in (0.0, 5.0, -5.0, 1e-30, 1e30, -1e30)])
    rows = torch.cat([rows, torch.linspace(-1, 1, 32)[None] * 1e30])
    scale, zero_point = function(rows, bits)
    assert (scale > 0).all()
    values = fake_quantize(rows, scale, zero_point, bits)
    assert values.isfinite().all()
    assert (values[0] == 0).all()
    if function is raw_minmax:
        return  # its step is that of the raw range, which a constant row does not have
    exact = slice(0, 6) if function is percentile_search else slice(0, 7)  # percentiles cut the ends of the last row
    assert ((values - rows).abs() <= scale * 0.5001)[exact].all()


def test_mostly_zero_rows_keep_their_outlier_in_range() -> None:
    """Quantile ranges of zero width are no candidates."""
    rows = torch.zeros(1, 2000)
    rows[0, 7] = 1.0
    scale, zero_point = percentile_search(rows, 4)
    assert scale.item() > 0
    assert fake_quantize(rows, scale, zero_point, 4).abs().max() > 0.9


def test_search_beats_the_full_range_where_there_are_outliers() -> None:
    rows = rows_of(4, 8, 512)
    top = rows.abs().amax(1, keepdim=True)

    def loss(scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        return (fake_quantize(rows, scale, zero_point, 4) - rows).abs().pow(2.4).mean(1)

    for function in (shrink_search, minmax_search):
        assert (loss(*function(rows, 4)) <= loss(*minmax(rows, 4)) * 1.0001).all()
    assert (loss(*threshold_search(rows, 4)) <= loss(*threshold_parameters(-top, top, 4)) * 1.0001).all()
    assert loss(*shrink_search(rows, 4)).mean() < 0.9 * loss(*minmax(rows, 4)).mean()


def test_threshold_side_is_decided_on_the_whole_tensor() -> None:
    positive = rows_of(5).abs()
    assert [side_of(x) for x in (positive, -positive, rows_of(5))] == ["positive", "negative", "both"]
    low, high = threshold_range(positive, 4)
    assert (low == 0).all() and (high > 0).all()
    assert (threshold_search(positive, 4)[1] == 0).all()
    low, high = threshold_range(-positive, 4)
    assert (high == 0).all() and (threshold_search(-positive, 4)[1] == 15).all()
    mixed = torch.cat([positive, -positive])
    low, high = threshold_range(mixed, 4)
    assert torch.equal(low, -high)
    one_row = threshold_range(positive[:1], 4, side="both")
    assert torch.equal(low[:1], one_row[0])


def test_threshold_in_two_dimensions() -> None:
    """Shifted data: the 2-D search finds an asymmetric range and is never worse than what it scans; brute force."""
    row = (rows_of(6, 1, 300) + 2).double().numpy()[0]
    low, high = threshold_range_2d(torch.from_numpy(row[None]).float(), 3)
    best, edges = np.inf, (0.0, 0.0)
    for i in range(1, 101):
        width = (row.max() - row.min()) * i / 100
        for zero in range(8):
            base, top = -zero * width / 7, width - zero * width / 7
            scale = (max(top, 0) - min(base, 0)) / 7
            error = error_of(row, scale, np.clip(np.rint(-min(base, 0) / scale), 0, 7), 3, 2.4)
            if error < best:
                best, edges = error, (base, top)
    assert (low.item(), high.item()) == pytest.approx(edges, rel=1e-4, abs=1e-5)
    one_sided = rows_of(6).abs()
    assert torch.equal(threshold_range_2d(one_sided, 3)[1], threshold_range(one_sided, 3)[1])


def test_ranges_are_extended_to_zero_where_the_original_does() -> None:
    low, high = torch.tensor([[2.0]]), torch.tensor([[5.0]])
    scale, zero_point = threshold_parameters(low, high, 4)
    assert (scale.item(), zero_point.item()) == pytest.approx((1 / 3, 0))
    scale, zero_point = running_parameters(-high, -low, 4)
    assert (scale.item(), zero_point.item()) == pytest.approx((1 / 3, 15))
    nothing = torch.zeros(1, 1)
    for function in (threshold_parameters, running_parameters):
        assert function(nothing, nothing, 4)[0].item() == pytest.approx(1e-8)
    rows = torch.linspace(2, 5, 16)[None]
    assert zero_minmax(rows, 4)[1].item() == 0
    assert shrink_search(rows, 4)[1].item() < 0


def test_moving_average() -> None:
    running, new = torch.tensor([1.0]), torch.tensor([2.0])
    assert ema(running, new, 0.9).item() == pytest.approx(1.1)
    assert torch.equal(torch.cat(extremes(torch.tensor([[3.0, -1.0, 2.0]]))), torch.tensor([[-1.0], [3.0]]))


@pytest.mark.parametrize("positions", [[0, 1, 990, 999], [0, 500, 999], [999], [3]])
def test_values_at_the_ends_are_those_of_the_sorted_row(positions: list[int]) -> None:
    """Also if a row has equal values and NaN, which are the largest."""
    rows = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).mul(50).round()
    rows[1, 17] = torch.nan
    expected = rows.sort(dim=1).values[:, positions]
    torch.testing.assert_close(at_ends(rows, positions), expected, rtol=0, atol=0, equal_nan=True)
