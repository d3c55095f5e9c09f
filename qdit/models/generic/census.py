"""Count which layers of diffusers' transformers have roles. Each class is built on the meta device, without values."""

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from qdit.core.errors import CheckpointError
from qdit.models.generic.families import BY_CLASS
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.roles import CORE_ROLES

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
DEPTH = 2
"""Blocks of each list. A model of full depth has a larger share of its weights in blocks."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "HunyuanDiT2DModel": {"in_channels": 4, "patch_size": 2},
    "LatteTransformer3DModel": {
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "cross_attention_dim": 1408,
        "norm_type": "ada_norm_single",
        "num_embeds_ada_norm": 1000,
        "caption_channels": 4096,
    },
    "WanVACETransformer3DModel": {"vace_layers": [0]},
    "Transformer2DModel": {
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 32,
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
    },
}
"""Settings of classes whose defaults describe no model."""


@dataclass(frozen=True)
class Coverage:
    """How many weights of one class have a role, and the paths of layers without a role.

    `problem` says why the class could not be built; then all other fields are empty.
    """

    class_name: str
    weights: int = 0
    with_role: int = 0
    in_core: int = 0
    blocks: int = 0
    roles: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    problem: str = ""

    @property
    def share(self) -> float:
        """Share of the weights of linears and convolutions whose layer has a role."""
        return self.with_role / self.weights if self.weights else 0.0

    @property
    def core_share(self) -> float:
        """Share of the weights of linears and convolutions that scope `common` quantizes: linears of the blocks."""
        return self.in_core / self.weights if self.weights else 0.0

    @property
    def pipeline(self) -> str:
        """Name of the diffusers pipeline that runs the transformer. Empty if its family names none."""
        family = BY_CLASS.get(self.class_name)
        return (family.pipeline or "") if family else ""


def class_names() -> list[str]:
    """Names of all transformers that diffusers exports."""
    import diffusers
    from diffusers.models import transformers

    exported = set(dir(diffusers))
    values = {name: getattr(transformers, name) for name in dir(transformers) if name in exported}
    return sorted(name for name, value in values.items() if isinstance(value, type) and issubclass(value, nn.Module))


def census() -> Iterator[Coverage]:
    """Count the weights with a role in every class of diffusers, in the order of the class names."""
    return map(coverage, class_names())


def coverage(class_name: str) -> Coverage:
    """Count the weights with a role in one class of diffusers.

    The class is built with its default settings, but with two blocks in each list.
    """
    from diffusers.models import transformers

    if class_name not in class_names():
        raise CheckpointError(f"transformer class {class_name!r:.60}: diffusers has none; `qdit models` lists them")
    model_class = getattr(transformers, class_name)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model = model_class(**settings_of(model_class))
    except Exception as problem:  # a class of another package: whatever it raises is the answer
        return Coverage(class_name, problem=" ".join(str(problem).split())[:100] or type(problem).__name__)
    return counted(class_name, model)


def settings_of(model_class: Any) -> dict[str, Any]:
    """Arguments that build a small model of a class: two blocks per list, and values for required arguments."""
    defaults = inspect.signature(model_class.__init__).parameters
    depths = {
        name: DEPTH
        for name, parameter in defaults.items()
        if re.fullmatch(r"(num_|n_)?(\w+_)?(layers|blocks|depth)", name) and isinstance(parameter.default, int)
    }
    return {**depths, **SETTINGS.get(model_class.__name__, {})}


def counted(class_name: str, model: nn.Module) -> Coverage:
    """Count the weights with a role in a model."""
    sites = {site.name: site for site in DiffusersNetwork(model).sites()}
    weights = {path: module.weight.numel() for path, module in model.named_modules() if isinstance(module, WEIGHTED)}
    roles: Counter[str] = Counter()
    for path, number in weights.items():
        if path in sites:
            roles[sites[path].role] += number
    missing = dict.fromkeys(re.sub(r"\.\d+", ".*", path) for path in weights if path not in sites)
    return Coverage(
        class_name,
        weights=sum(weights.values()),
        with_role=sum(roles.values()),
        in_core=sum(number for role, number in roles.items() if role in CORE_ROLES),
        blocks=len({site.block for site in sites.values() if site.block is not None}),
        roles=dict(roles.most_common()),
        missing=tuple(missing),
    )
