"""Any transformer, quantized by any method, from the arguments of some of its forward passes."""

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
    """The network of a transformer: an object of diffusers, or any module.

    `patterns` are pairs of a regular expression and a role. They come before the common table. `blocks` are the paths
    of the lists of blocks, in the order in which they run; without them they are found.
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
    """A quantized copy of a transformer, which stays as it is.

    `samples` are keyword arguments of its forward pass, with one row for each calibration sample; `timestep` is among
    them. `shared` are arguments that all samples have in common. A method that looks at no data needs neither. The
    result's `model.transformer` is the quantized transformer, for its pipeline. Raises ConfigError and Unsupported as
    `quantize_model`.
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
    """A calibration set of the arguments of some forward passes. Its schedule has their timesteps."""
    calls = Keywords(samples, shared)
    return KeywordSet.of(kind, calls, PipelineProtocol(timesteps=sorted(set(calls.timestep.float().tolist()))))
