"""Import and register all activation quantizers of this suite, and build one of them from a checkpoint."""

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
    """Build the quantizer that `spec` and `tensors` describe; None for no spec.

    `context` holds the timesteps of the current forward pass of the model. Quantizers with a range for each timestep
    read it.
    """
    if spec is None:
        return None
    cls = ACTIVATIONS.find(spec.get("kind"))
    activation: Activation = cls.build(spec, tensors, context) if cls.needs_context else cls.build(spec, tensors)
    return activation
