"""Fused LayerNorm and attention: float64 is the judge, all variants give the same bits, what does not fit is left."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qdit.kernels.backend import FORCE, forced
from qdit.kernels.fused import EPSILON, attention, modulated_norm
from qdit.kernels.library import available

VARIANTS = [name for name in available() if name != "torch"]
pytestmark = pytest.mark.skipif(not VARIANTS, reason="needs the compiled library")


def norm_of(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """In float64, as the equation says."""
    normed = F.layer_norm(x.double(), x.shape[-1:], eps=EPSILON)
    return normed * (1 + scale.double()[:, None]) + shift.double()[:, None]


def attention_of(qkv: Tensor, heads: int) -> Tensor:
    """In float64, written out."""
    q, k, v = qkv.double().unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape", [(32, 16, 144), (2, 5, 150), (3, 1, 15), (1, 7, 1152)])
def test_norm(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(shape, generator=generator) + 1
    shift, scale = torch.randn(shape[0], 6 * shape[2], generator=generator).chunk(6, dim=1)[3:5]
    results = []
    for name in VARIANTS:
        monkeypatch.setenv(FORCE, name)
        forced.cache_clear()
        result = modulated_norm(x, shift, scale)
        assert result is not None
        results.append(result)
    torch.testing.assert_close(results[0].double(), norm_of(x, shift, scale), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("n", "tokens", "heads", "channels"),
    [(32, 16, 6, 24), (3, 7, 2, 20), (2, 64, 4, 72), (1, 33, 1, 128), (1, 1, 1, 3)],
)
def test_attention(n: int, tokens: int, heads: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = 2 * torch.randn(n, tokens, 3 * heads * channels, generator=torch.Generator().manual_seed(1))
    results = []
    for name in VARIANTS:
        monkeypatch.setenv(FORCE, name)
        forced.cache_clear()
        result = attention(qkv, heads)
        assert result is not None
        results.append(result)
    torch.testing.assert_close(results[0].double(), attention_of(qkv, heads), rtol=1e-4, atol=2e-5)
    assert all(torch.equal(result, results[0]) for result in results)


def test_weights_that_vanish_and_scores_that_are_large() -> None:
    qkv = torch.zeros(1, 16, 3 * 8)
    qkv[0, :, :8], qkv[0, 3, 8:16], qkv[0, :, 16:] = 40.0, 40.0, torch.arange(16.0)[:, None]
    mixed = attention(qkv, 1)
    assert mixed is not None
    torch.testing.assert_close(mixed, torch.full_like(mixed, 3.0))


def test_a_number_that_is_not_finite_stays_so_in_its_own_sample() -> None:
    qkv, x = torch.randn(2, 16, 432), torch.randn(2, 4, 32)
    for value in (float("nan"), float("inf")):
        qkv[1, 2, 150], x[1, 2, 5] = value, value
        mixed, normed = attention(qkv, 6), modulated_norm(x, torch.zeros(2, 32), torch.zeros(2, 32))
        assert mixed is not None and normed is not None
        assert mixed[0].isfinite().all() and not mixed[1].isfinite().all()
        assert torch.equal(mixed.isfinite(), attention_of(qkv, 6).isfinite())
        assert normed[0].isfinite().all() and normed.isfinite().all(dim=-1)[1].tolist() == [True, True, False, True]


def test_what_does_not_fit_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, row = torch.randn(2, 4, 32), torch.randn(2, 32)
    assert modulated_norm(x.double(), row.double(), row.double()) is None
    assert modulated_norm(x.transpose(1, 2), torch.randn(2, 4), torch.randn(2, 4)) is None
    assert modulated_norm(x, row[:1], row) is None
    assert modulated_norm(x.requires_grad_(), row, row) is None
    assert attention(torch.randn(1, 65, 24), 1) is None
    assert attention(torch.randn(1, 4, 3 * 129), 1) is None
    assert attention(torch.randn(1, 4, 25), 1) is None
    monkeypatch.setenv(FORCE, "torch")
    forced.cache_clear()
    assert attention(torch.randn(1, 4, 24), 1) is None and modulated_norm(x.detach(), row, row) is None
