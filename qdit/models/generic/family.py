"""A family of diffusers' transformers: facts about its classes that the common role patterns cannot express."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from qdit.models.generic.patterns import PATTERNS, Pattern
from qdit.models.roles import FoldSource

FoldSources = Callable[[str, nn.Module], Mapping[str, FoldSource]]
"""(path of a block, the block) → path of a linear, what absorbs a per-channel factor of its input."""


@dataclass(frozen=True)
class GenericFamily:
    """Facts about some classes of diffusers. A class without a family has the defaults.

    classes        names of the classes.
    patterns       role patterns that are tried before the common patterns.
    blocks         paths of the lists of blocks, in the order in which they run; without any, they are searched.
    interleaved    the lists alternate: first block of each, second block of each, …
    fold_sources   which layers absorb a per-channel factor; None: no layer does.
    pipeline       class of diffusers whose pipeline runs the transformer.
    """

    classes: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    blocks: tuple[str, ...] = ()
    interleaved: bool = False
    fold_sources: FoldSources | None = None
    pipeline: str | None = None

    @property
    def all_patterns(self) -> tuple[Pattern, ...]:
        """Role patterns in the order in which they are tried: the family's own, then the common ones."""
        return (*self.patterns, *PATTERNS)
