"""Gradients of LayerNorm and of attention with quantized operands: float64 autograd is the judge."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qdit.kernels.backend import Backend
from qdit.kernels.fused import EPSILON
from qdit.kernels.gradients import LearningAttention, fits, no_grids, norm_gradients
from qdit.kernels.learning import through_grid
from qdit.kernels.library import available, select

VARIANTS = [name for name in available() if name != "torch"]
pytestmark = pytest.mark.skipif(not VARIANTS, reason="needs the compiled library")
SHAPES = [(4, 16, 6, 24), (3, 7, 2, 20), (2, 33, 1, 72), (1, 1, 1, 3)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def backends() -> list[Backend]:
    return [select(name) for name in VARIANTS]


@pytest.mark.parametrize("shape", [(5, 16, 144), (2, 3, 150), (3, 1, 15)])
def test_norm(shape: tuple[int, int, int]) -> None:
    x, gradient = 3 * draw(*shape) + 1, draw(*shape, seed=1)
    shift, scale = draw(shape[0], 6 * shape[2], seed=2).chunk(6, dim=1)[3:5]
    exact = [value.double().detach().requires_grad_() for value in (x, shift, scale)]
    normed = F.layer_norm(exact[0], shape[-1:], eps=EPSILON) * (1 + exact[2][:, None]) + exact[1][:, None]
    (normed * gradient.double()).sum().backward()
    results = []
    for backend in backends():
        of_x, of_six = torch.empty(shape), torch.full((shape[0], 6, shape[2]), torch.nan)
        norm_gradients(backend, x, scale, gradient, of_x=of_x, of_modulation=of_six[:, 3:5])
        assert of_six[:, [0, 1, 2, 5]].isnan().all()
        results.append(torch.cat([of_x.flatten(), of_six[:, 3].flatten(), of_six[:, 4].flatten()]))
    expected = torch.cat([value.grad.flatten() for value in exact])
    torch.testing.assert_close(results[0].double(), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(result, results[0]) for result in results)


def written_out(qkv: Tensor, heads: int, scales: list[Tensor], grids: np.ndarray, factor: Tensor | None) -> Tensor:
    """Attention by torch's operations. Gradients pass a quantizer where its codes are not clamped (LSQ)."""

    def quantized(x: Tensor, operand: int) -> Tensor:
        _, zero_point, levels = grids[operand].tolist()
        if not levels:
            return x
        scale = scales[operand]
        whole = (x.detach() / scale.detach()).round() + zero_point
        inside = (whole >= 0) & (whole <= levels)
        # Value (code − zero point) · scale. Inside, x has the gradient 1, the scale code − zero point − x / scale.
        codes = torch.where(
            inside, x / scale + (whole - zero_point - x / scale).detach(), whole.clamp(0, levels) - zero_point
        )
        return codes * scale

    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (quantized(q, 0) * q.shape[-1] ** -0.5 @ quantized(k, 1).transpose(-2, -1)).softmax(dim=-1)
    times = torch.ones(()) if factor is None else factor.to(v).view(heads, 1, -1)
    return (quantized(weights, 2) @ (quantized(v * times, 3) / times)).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quantizers", ["none", "all", "all and a factor", "values only"])
def test_attention(shape: tuple[int, int, int, int], quantizers: str) -> None:
    n, tokens, heads, channels = shape
    qkv, gradient = 2 * draw(n, tokens, 3 * heads * channels), draw(n, tokens, heads * channels, seed=1)
    grids, factor = no_grids(), None
    if quantizers.startswith("all"):
        grids[:] = [(0.11, 120, 255), (0.7, 8, 15), (1 / 255, 0, 255), (0.23, 7, 15)]
    if quantizers == "values only":
        grids[3] = (0.23, 7, 15)
    if "factor" in quantizers:
        factor = draw(heads * channels, seed=2).exp()
    exact = qkv.double().requires_grad_()
    scales = [torch.tensor(scale, dtype=torch.float64, requires_grad=True) for scale in grids[:, 0].tolist()]
    expected = written_out(exact, heads, scales, grids, factor)
    (expected * gradient.double()).sum().backward()
    results = []
    for backend in backends():
        assert fits(backend, tokens, channels) and not fits(backend, 65, channels)
        attention = LearningAttention(backend, heads, factor)
        y, weights = attention.forward(qkv, grids)
        of_qkv, of_scales = attention.backward(qkv, grids, weights, gradient)
        results.append((y, of_qkv, torch.from_numpy(of_scales)))
    y, of_qkv, of_scales = results[0]
    # A softmax output beside the middle of two codes may get the other one: few values, one code apart.
    for result, value, one_code in ((y, expected, 0.05), (of_qkv, exact.grad, 0.05)):
        far = (result.double() - value).abs() > 1e-4 * (1 + value.abs())
        assert far.float().mean() < (0.02 if grids[2, 2] else 1e-9) and (result - value).abs().max() < one_code
    for operand, scale in enumerate(scales):
        if grids[operand, 2]:
            total = gradient.abs().sum() * 0.01
            assert of_scales[operand] == pytest.approx(float(scale.grad), rel=2e-2, abs=float(total))
        else:
            assert of_scales[operand] == 0
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


def test_values_pass_their_quantizer_as_any_other_input_does() -> None:
    """With equal weights the gradient of V is that of the mean, through the grid of `through_grid`."""
    backend, grids = backends()[0], no_grids()
    grids[3] = (0.3, 7, 15)
    qkv, gradient = draw(2, 16, 3 * 8), draw(2, 16, 8, seed=1)
    qkv[..., :16] = 0
    _, weights = LearningAttention(backend, 2).forward(qkv, grids)
    of_qkv, of_scales = LearningAttention(backend, 2).backward(qkv, grids, weights, gradient)
    mean = gradient.mean(dim=1, keepdim=True).expand_as(gradient).contiguous()
    passed, of_scale = through_grid(backend, qkv[..., 16:].contiguous(), mean, 0.3, 7.0, 15)
    torch.testing.assert_close(of_qkv[..., 16:], passed, rtol=1e-5, atol=1e-6)
    assert of_scales[3] == pytest.approx(of_scale, rel=1e-4)
    assert of_scales[:3].tolist() == [0, 0, 0]
