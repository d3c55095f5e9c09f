"""All activation quantizers of this suite, registered, and the function that builds one again from a checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qdit.models.roles import StepContext
from qdit.quant import grid_activations, nonlinear, temporal
from qdit.quant.activation import ACTIVATIONS, Activation

MODULES = (nonlinear, temporal, grid_activations)
"""Modules whose import registers their kinds."""


def build_activation(
    spec: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], context: StepContext
) -> Activation | None:
    """Build the quantizer of a spec and its tensors. `context` is that of its model. None stays None."""
    if spec is None:
        return None
    cls = ACTIVATIONS.find(spec.get("kind"))
    activation: Activation = cls.build(spec, tensors, context) if cls.needs_context else cls.build(spec, tensors)
    return activation
