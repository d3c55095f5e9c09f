"""Quantize any transformer with a method of the suite. Calibration data are recorded arguments of its forward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from qdit.core.errors import ConfigError
from qdit.methods.method import Scope
from qdit.methods.quantize import options_of, quantize_model
from qdit.methods.registry import find_method
from qdit.models.generic.families import family_of_class
from qdit.models.generic.family import GenericFamily
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.generic.patterns import Pattern
from qdit.quant.batches import Keywords
from qdit.quant.checkpoint import Quantized
from qdit.sampling.keyword_set import KeywordSet
from qdit.sampling.pipeline_protocol import PipelineProtocol


def network_of(
    transformer: nn.Module, *, patterns: Sequence[Pattern] = (), blocks: Sequence[str] = ()
) -> DiffusersNetwork:
    """Wrap any torch module that has blocks, so that the methods find its linear layers and their roles.

    `patterns` are pairs of a regular expression for layer names and a role. They are tried before the common patterns.
    `blocks` are the paths of the module lists that hold the blocks, in the order in which they run. Without `blocks`
    the function finds these lists itself.
    """
    family = family_of_class(type(transformer).__name__)
    if patterns or blocks:
        family = GenericFamily(patterns=(*patterns, *family.patterns), blocks=tuple(blocks) or family.blocks)
    return DiffusersNetwork(transformer, family)


def quantize_transformer(
    transformer: nn.Module,
    method: str = "q-dit",
    *,
    weight_bits: int = 4,
    activation_bits: int = 8,
    scope: Scope = "common",
    samples: Mapping[str, Any] | None = None,
    shared: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    patterns: Sequence[Pattern] = (),
    blocks: Sequence[str] = (),
) -> Quantized:
    """Make a quantized copy of a transformer. The transformer itself does not change.

    `samples` are keyword arguments of its forward pass, with one row for each calibration sample; `timestep` is among
    them. `shared` are arguments that are the same for all samples. A method without calibration data needs neither. The
    quantized transformer is `model.transformer` of the result; it can replace the transformer of a pipeline. Raises
    ConfigError and Unsupported as `quantize_model` does.
    """
    network = network_of(transformer, patterns=patterns, blocks=blocks)
    if not network.sites():
        raise ConfigError(
            f"{type(transformer).__name__}: no linear has a role; give `patterns`, pairs of a regular expression and a"
            " role (docs/any-model.md)"
        )
    method_object = find_method(method)
    kinds = method_object.calibration_for(options_of(method_object, options or {})) if samples is not None else ()
    return quantize_model(
        network,
        method,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        scope=scope,
        calibration={kind: calibration_of(kind, samples or {}, shared or {}) for kind in kinds},
        options=options,
    )


def calibration_of(kind: str, samples: Mapping[str, Any], shared: Mapping[str, Any]) -> KeywordSet:
    """Make a calibration set from the arguments of recorded forward passes; its schedule holds their timesteps."""
    calls = Keywords(samples, shared)
    return KeywordSet.of(kind, calls, PipelineProtocol(timesteps=sorted(set(calls.timestep.float().tolist()))))
