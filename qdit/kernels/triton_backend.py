"""Choice of the Triton backend: it is used if Triton is installed, the GPU is new enough, and the self-test passes.

The GPU needs 8-bit tensor cores (compute capability 8.0 or more).
"""

import importlib.util
import logging
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from qdit.core.errors import ConfigError
from qdit.kernels.backend import FORCE, forced

if TYPE_CHECKING:
    from qdit.kernels.selftest import Operations

LOG = logging.getLogger(__name__)
CAPABILITY = (8, 0)
"""The first with 8-bit tensor cores as Triton uses them."""


def usable(device: str | torch.device) -> bool:
    """Whether CUDA tensors of a device go to Triton; ConfigError if QDIT_KERNELS requires it and it cannot run."""
    name = forced()
    if name == "torch":
        return False
    problem = refusal(str(device))
    if problem is not None and name == "triton":
        raise ConfigError(f"{FORCE}=triton is not available: {problem}; unset it or use torch")
    return problem is None


@cache
def refusal(device: str) -> str | None:
    """Return why Triton does not run on a CUDA device, or None if it does. The first call compiles for seconds."""
    problem = _missing(device) or _failure(device)
    if problem is not None:
        LOG.warning("quantized kernels run in plain torch on %s, which is slow: %s", device, problem)
    return problem


def _missing(device: str) -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if torch.version.hip is not None:
        return "only NVIDIA devices have been considered"
    capability = torch.cuda.get_device_capability(device)
    return (
        None
        if capability >= CAPABILITY
        else f"compute capability {capability[0]}.{capability[1]}; 8.0 or more is needed"
    )


def _failure(device: str) -> str | None:
    from qdit.kernels.selftest import disagreement_of

    try:
        with torch.cuda.device(device):
            return disagreement_of(operations(), device) or late_disagreement(device)
    except Exception as problem:  # whatever Triton, its compiler or the driver raise
        return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


def operations() -> "Operations":
    """Return the Triton kernels that the self-test calls."""
    from qdit.kernels import triton_fake, triton_linear, triton_quantize
    from qdit.kernels.selftest import Operations

    return Operations(
        grouped_linear=triton_linear.grouped_linear,
        quantize_groups=triton_quantize.quantize_groups,
        fake_quantize_groups=triton_fake.fake_quantize_groups,
        fake_quantize_static=triton_fake.fake_quantize_static,
    )


def late_disagreement(device: str) -> str | None:
    """Test the kernels that compute LayerNorm or GELU and then quantize. Return text about what is wrong, or None.

    The values of LayerNorm and GELU must be near torch's on the CPU. The codes and the simulated values must equal
    those of two separate kernels, one for LayerNorm or GELU and one for the quantizer.
    """
    from qdit.kernels import triton_fake, triton_inputs, triton_quantize
    from qdit.kernels.inputs import GeluInput, ModulatedInput

    x, shift, scale = torch.randn(3, 2, 96, generator=torch.Generator().manual_seed(7)).mul(2).unbind()
    tokens, ranges = torch.stack([x, shift, scale], dim=1), torch.tensor([[0.05], [90.0]], device=device)
    half: dict[str, Any] = {"narrow": torch.float16}
    for late in (ModulatedInput(tokens, shift, scale), GeluInput(tokens)):
        moved = type(late)(*(tensor.to(device) for tensor in late.tensors()))
        rows = triton_inputs.computed(moved)
        if not torch.allclose(rows.cpu(), late.computed(), rtol=1e-5, atol=1e-5):
            return f"another {type(late).__name__}"
        fused, apart = (triton_quantize.quantize_groups(values, 24, 8, symmetric=False) for values in (moved, rows))
        if not all(torch.equal(*pair) for pair in zip(fused, apart, strict=True)):
            return f"other codes of a {type(late).__name__}"
        for simulate in (
            partial(triton_fake.fake_quantize_groups, group_size=24, bits=8, symmetric=False, **half),
            partial(triton_fake.fake_quantize_static, scale=ranges[0], zero_point=ranges[1], bits=8, **half),
        ):
            if not torch.equal(simulate(moved), simulate(rows)):
                return f"another simulation of a {type(late).__name__}"
    return None
