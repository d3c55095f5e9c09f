"""Registry of activation quantizers: the name of each kind in a checkpoint, and the class that builds it again."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from qdit.core.errors import CheckpointError
from qdit.models.roles import StepContext
from qdit.quant.activation import Activation, DynamicActivation, FactoredActivation, StaticActivation
from qdit.quant.nonlinear import LogSqrt2Activation, TwinGeluActivation
from qdit.quant.temporal import TimestepStaticActivation, TwinSoftmaxActivation

PLAIN: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Activation]] = {
    "dynamic": DynamicActivation.build,
    "static": StaticActivation.build,
    "factored": FactoredActivation.build,
    "log-sqrt2": LogSqrt2Activation.build,
    "twin-gelu": TwinGeluActivation.build,
}
TEMPORAL: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], StepContext], Activation]] = {
    "timestep-static": TimestepStaticActivation.build,
    "twin-softmax": TwinSoftmaxActivation.build,
}
"""Those that read the timestep of the current forward pass."""


def build_activation(
    spec: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], context: StepContext
) -> Activation | None:
    """Build the quantizer of a spec and its tensors. `context` is that of its model. None stays None."""
    if spec is None:
        return None
    kind = spec.get("kind")
    if kind in PLAIN:
        return PLAIN[kind](spec, tensors)
    if kind in TEMPORAL:
        return TEMPORAL[kind](spec, tensors, context)
    raise CheckpointError(f"activation quantizer kind {kind!r}: allowed are {', '.join((*PLAIN, *TEMPORAL))}")
