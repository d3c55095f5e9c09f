"""A transformer of diffusers as a network with sites and roles.

The network shares its modules, parameters and buffers with the transformer, under the same names. So quantizing the
network quantizes the transformer, too, and the transformer's pipeline can run it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError
from qdit.models.config import DiffusersConfig
from qdit.models.generic.blocks import block_paths_of
from qdit.models.generic.families import family_of_class
from qdit.models.generic.family import GenericFamily
from qdit.models.generic.patterns import role_of
from qdit.models.roles import FoldSource, Kind, Site, StepContext

SHARED_TABLES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
"""Tables of a module that the network has in common with its transformer."""

EMBEDDINGS = ("time_embed", "guidance_embed", "size_embed", "label_embed", "pooled_embed")
"""Roles outside the blocks. diffusers' DiT has such layers in each block, and calls those of the first again."""


class PublishStep:
    """Hook before a forward pass: it stores the timestep of each row (sample) in a StepContext, where sites read it."""

    def __init__(self, context: StepContext, names: tuple[str, ...]) -> None:
        self.context, self.names = context, names

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        arguments = dict(zip(self.names, args, strict=False)) | dict(kwargs)
        self.context.timestep = step_of(arguments)


def published_context(transformer: nn.Module, names: tuple[str, ...]) -> StepContext:
    """The StepContext that holds the timestep of the transformer's current forward pass.

    All networks around one transformer share it. `names` are the arguments of its forward pass. The first call adds a
    hook that stores the timestep.
    """
    for hook in transformer._forward_pre_hooks.values():
        if isinstance(hook, PublishStep):
            return hook.context
    context = StepContext()
    transformer.register_forward_pre_hook(PublishStep(context, names), with_kwargs=True)
    return context


def step_of(arguments: Mapping[str, Any]) -> Tensor | None:
    """Timesteps (N,) among the arguments of a forward pass, on the scale of the transformer.

    A single timestep is repeated for all N samples. None if there is no argument `timestep`, or if a sample has a
    timestep for each token.
    """
    timestep = arguments.get("timestep")
    if timestep is None:
        return None
    timestep = torch.as_tensor(timestep)
    if timestep.dim() == 0 or timestep.numel() == 1:
        return timestep.reshape(1).expand(rows_of(arguments))
    return timestep if timestep.dim() == 1 else None


def rows_of(arguments: Mapping[str, Any]) -> int:
    """Number of samples in the batch that these arguments of a forward pass describe."""
    main = arguments.get("hidden_states", next(iter(arguments.values()), None))
    return len(main) if isinstance(main, Tensor | list | tuple) else 1


class DiffusersNetwork(nn.Module):
    """A transformer of diffusers, or any module with lists of blocks and named linears, as a network with sites.

    `forward` takes the keyword arguments of the transformer and returns its first output. `transformer` is the
    transformer itself.
    """

    transformer: nn.Module

    def __init__(self, transformer: nn.Module, family: GenericFamily | None = None) -> None:
        super().__init__()
        if not isinstance(transformer, nn.Module):
            raise ConfigError(f"transformer: found {type(transformer).__name__}, must be a torch module")
        self.__dict__["transformer"] = transformer
        for table in SHARED_TABLES:
            self.__dict__[table] = transformer.__dict__[table]
        self.training = transformer.training
        self.config = config_of(transformer)
        names = tuple(inspect.signature(transformer.forward).parameters)
        self._extra = {"return_dict": False} if "return_dict" in names else {}
        self.step_context = published_context(transformer, names)
        family = family_of_class(self.config.class_name) if family is None else family
        self.block_paths = block_paths_of(transformer, family)
        self._sites = sites_of(transformer, self.block_paths, family)

    def train(self, mode: bool = True) -> "DiffusersNetwork":
        """Set the network and its transformer to training mode, or with `mode=False` to evaluation mode."""
        self.transformer.training = mode
        super().train(mode)
        return self

    def forward(self, **arguments: Any) -> Any:
        """First output of the transformer: usually the predicted noise or velocity, one for each sample (N, …)."""
        output = self.transformer(**arguments, **self._extra)
        return output[0] if isinstance(output, tuple | list) else getattr(output, "sample", output)

    def sites(self) -> list[Site]:
        """List every linear with a role, and every convolution with a role whose patches do not overlap.

        The order is that of the modules in the class.
        """
        return list(self._sites)


def config_of(transformer: nn.Module) -> DiffusersConfig:
    """Configuration of a transformer: the name of its class and its arguments, without diffusers' internal entries."""
    values = getattr(transformer, "config", None)
    plain = dict(values) if isinstance(values, Mapping) else {}
    public = {name: value for name, value in plain.items() if not name.startswith("_")}
    return DiffusersConfig(type(transformer).__name__, public)


def sites_of(model: nn.Module, paths: list[str], family: GenericFamily) -> list[Site]:
    """List the sites of a model in the order in which its class defines the modules.

    `paths` are the paths of its blocks.
    """
    number = {path: index for index, path in enumerate(paths)}
    sources: dict[str, FoldSource] = {}
    if family.fold_sources is not None:
        for path in paths:
            sources |= family.fold_sources(path, model.get_submodule(path))
    sites: list[Site] = []
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    modules = dict(model.named_modules())
    for name in names:
        kind = kind_of(modules.get(name))
        role = role_of(name, family.all_patterns) if kind is not None else None
        if kind is None or role is None:
            continue
        block_paths = () if role in EMBEDDINGS else paths
        inside = next((path for path in block_paths if not path or name.startswith(f"{path}.")), None)
        block = None if inside is None else number[inside]
        sites.append(Site(name, role, kind, block, sources.get(name), inside))
    return sites


def kind_of(module: nn.Module | None) -> Kind | None:
    """Kind of the site (linear, conv, …) that a module can be. None for a module that no method replaces.

    A convolution counts only if its patches do not overlap: stride = kernel, no padding, one group.
    """
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        is_unpadded = not any(module.padding) if isinstance(module.padding, tuple) else False
        is_separate = module.stride == module.kernel_size and set(module.dilation) == {1} and module.groups == 1
        kind: Kind = "pointwise" if set(module.kernel_size) == {1} else "conv"
        return kind if is_unpadded and is_separate else None
    return "embedding" if isinstance(module, nn.Embedding) else None
