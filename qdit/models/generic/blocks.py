"""Find the blocks of a transformer of diffusers: the items of its module lists that hold linears of a block."""

from collections.abc import Sequence

from torch import nn

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.patterns import role_of
from qdit.models.roles import CORE_ROLES

WHOLE = ""
"""Path of the only block of a model without lists of blocks: the model itself."""


def block_paths_of(model: nn.Module, family: GenericFamily) -> list[str]:
    """Paths of the blocks in the order in which they run, if the family says it, else in the order of the class.

    A model without blocks counts as one block, whose path is empty.
    """
    lists = list(family.blocks) or found_lists(model, family)
    paths = [[f"{name}.{index}" for index in range(len(list_at(model, name)))] for name in lists]
    if family.interleaved:
        longest = max((len(column) for column in paths), default=0)
        paths = [[column[index] for column in paths if index < len(column)] for index in range(longest)]
    return [path for column in paths for path in column] or [WHOLE]


def list_at(model: nn.Module, name: str) -> Sequence[nn.Module]:
    """Modules of the module list at a path. Empty if the model has no module list there."""
    try:
        modules = model.get_submodule(name)
    except AttributeError:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else []


def found_lists(model: nn.Module, family: GenericFamily) -> list[str]:
    """Paths of module lists in which every item holds a linear with a role of a block, such as qkv or fc1.

    Lists inside such a list are left out.
    """
    lists: list[str] = []
    for name, modules in model.named_modules():
        if isinstance(modules, nn.ModuleList) and len(modules) and not any(name.startswith(f"{o}.") for o in lists):
            items = [f"{name}.{index}" for index in range(len(modules))]
            if all(has_core_role(module, path, family) for path, module in zip(items, modules, strict=True)):
                lists.append(name)
    return lists


def has_core_role(module: nn.Module, path: str, family: GenericFamily) -> bool:
    """Whether a module contains a linear with a role of a block (qkv, fc1, …). The module itself does not count."""
    linears = (f"{path}.{name}" for name, inner in module.named_modules() if name and isinstance(inner, nn.Linear))
    return any(role_of(linear, family.all_patterns) in CORE_ROLES for linear in linears)
