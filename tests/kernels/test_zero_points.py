"""Zero points of activations that are subtracted after the loop over groups cost the promise of exactness."""

import torch

from qdit.kernels import reference
from qdit.kernels.packing import pack_weight
from qdit.kernels.selftest import TOLERANCE

GROUPS, SIZE = 36, 32
"""A row of DiT-XL/2 in groups of 32."""


def test_zero_points_after_the_loop_miss_the_promise():
    """Σ sx sw Σ(qx − 128) w̃ − Σ (sx (zx − 128)) (sw Σ w̃) is the product in float64, and not near enough in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, GROUPS, SIZE, generator=generator) * 1e-3
    x[..., 3] = 10 + torch.rand(5, GROUPS, generator=generator)  # an outlier in each group, with a small weight
    codes = torch.full((7, GROUPS, SIZE), 15, dtype=torch.int16)
    codes[..., 3] = 1
    scale, zero = torch.rand(7, GROUPS, generator=generator) + 0.5, torch.zeros(7, GROUPS, dtype=torch.int16)
    packed = pack_weight(codes.flatten(1), scale, zero, bits=4)
    expected = reference.grouped_linear(x.flatten(1), packed).double()
    quantized, step, offset = reference.quantize_groups(x.flatten(1), SIZE, 8)
    values = (quantized - offset[..., None]).double() * step.double()[..., None]
    weights = codes.double() * scale.double()[..., None]
    bound = TOLERANCE * (values.flatten(1).abs() @ weights.flatten(1).abs().T)
    products = torch.einsum("mgk,ngk->gmn", quantized.double() - 128, codes.double())
    of_rows, of_columns = step.double() * (offset - 128), scale.double() * codes.sum(dim=-1)

    def after_the_loop(dtype: torch.dtype) -> torch.Tensor:
        total = torch.zeros(len(x), len(codes), dtype=dtype)
        for index in range(GROUPS):
            scales = step[:, index, None].to(dtype) * scale[None, :, index].to(dtype)
            total += products[index].to(dtype) * scales
        return (total - of_rows.to(dtype) @ of_columns.to(dtype).T).double()

    exact = values.flatten(1) @ weights.flatten(1).T
    assert torch.allclose(expected, exact, rtol=1e-6)
    torch.testing.assert_close(after_the_loop(torch.float64), exact, rtol=1e-10, atol=0)
    assert ((after_the_loop(torch.float32) - exact).abs() > 3 * bound).any()
