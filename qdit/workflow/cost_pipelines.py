"""Count the parameters and operations of the transformer in a whole pipeline, without its weights.

The transformer's class is built on torch's meta device, with the configuration from the profile and with inputs of the
shapes that the setting gives. torch's counter adds up matrix products, convolutions and attention of one forward pass.
Text encoders and VAE are not counted; `qdit.workflow.cost_judges` counts judges.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from qdit.core.errors import ConfigError
from qdit.models.roles import CORE_ROLES
from qdit.quant.size import PAIR_BYTES
from qdit.workflow.profile import Profile

GROUP = 64
"""Weights that share a (scale, zero point) pair in the prediction of sizes: the group size of most methods here."""


@dataclass(frozen=True)
class TransformerShape:
    """Counts of a transformer: all parameters, weights that scope `common` quantizes, operations of one forward pass.

    `block` is the number of parameters of the largest block, `width` the number of channels of a token.
    """

    parameters: int
    quantized: int
    block: int
    width: int
    flops: float

    def checkpoint_bytes(self, weight_bits: int) -> float:
        """Return the bytes of a checkpoint: packed codes, a scale and a zero point for each group.

        Every other parameter has 4 bytes.
        """
        if weight_bits == 16:
            return 4.0 * self.parameters
        return self.quantized * (weight_bits / 8 + PAIR_BYTES / GROUP) + 4.0 * (self.parameters - self.quantized)


def transformer_shape(profile: Profile, setting: str) -> TransformerShape:
    """Return the counts of a setting's transformer; ConfigError if class, configuration and inputs do not fit."""
    entry = profile["settings"][setting]
    model, call = profile["models"][entry["model"]]["pipeline"], entry["call"]
    facts = {key: call.get(key, {}) for key in ("inputs", "shared")}
    return counted(json.dumps([model["transformer"], model.get("config", {}), facts], sort_keys=True), setting)


@cache
def counted(text: str, setting: str) -> TransformerShape:
    """Return the counts of a transformer; `text` is JSON with its class, configuration and input shapes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from qdit.models.generic.network import DiffusersNetwork

    class_name, config, facts = json.loads(text)
    network = DiffusersNetwork(empty(class_name, config, setting))
    try:
        with torch.device("meta"):
            arguments = {name: torch.zeros(1, *shape) for name, shape in facts["inputs"].items()}
            arguments |= {name: torch.zeros(*shape) for name, shape in facts["shared"].items()}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.transformer(**arguments, return_dict=False)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as problem:
        text = " ".join(str(problem).split())[:200]
        raise ConfigError(
            f"settings.{setting}.call.inputs: {class_name} does not accept these shapes ({text}); correct them"
        ) from None
    core = [network.get_submodule(site.name) for site in network.sites() if site.role in CORE_ROLES]
    quantized = sum(layer.get_parameter("weight").numel() for layer in core)
    lists = [module for module in network.transformer.modules() if isinstance(module, torch.nn.ModuleList)]
    largest = max((size(block) for blocks in lists for block in blocks), default=0)
    width = network.config.hidden_size
    return TransformerShape(size(network.transformer), quantized, largest, width, float(counter.get_total_flops()))


def size(module: Any) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def empty(class_name: str, config: Mapping[str, Any], setting: str) -> Any:
    """Build a transformer without memory for weights (meta device).

    ConfigError for a class that diffusers does not have, or a configuration that the class does not accept.
    """
    import diffusers
    import torch

    kind = getattr(diffusers, class_name, None)
    if not isinstance(kind, type):
        raise ConfigError(
            f"pipeline.transformer: diffusers {diffusers.__version__} has no class {class_name!r}; correct the name"
        )
    try:
        with torch.device("meta"):
            return kind(**config).eval()
    except (TypeError, ValueError) as problem:
        raise ConfigError(
            f"pipeline.config: {class_name} does not accept these values ({problem}); correct them"
        ) from None
