"""Sites: modules of a model that a method may replace. A method selects them by role, not by path.

`model.sites()` lists the sites. A method selects those whose role its paper quantizes and puts its own modules in their
place with `replace`. The new module has the same inputs and outputs as the old one.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

Kind = Literal["linear", "conv", "pointwise", "embedding", "operand", "modulate"]
"""`pointwise` is a convolution over single cells (Sana's MLP): a linear whose channels come second, not last."""

CORE_ROLES = (
    *("qkv", "attn_out", "cross_q", "cross_kv", "cross_out", "fc1", "fc2"),
    *("txt_qkv", "txt_attn_out", "txt_fc1", "txt_fc2", "qkv_fc1", "out_fc2"),
)
"""The linears of a block (four of a DiT, seven of an STDiT3): scope `common`, the same for every method.

The second line is for transformers of diffusers (docs/any-model.md): `txt_` is the text stream of a block with two
streams, and `qkv_fc1` and `out_fc2` are one linear in the place of two, in blocks whose attention and MLP run side by
side.
"""


@dataclass(frozen=True)
class ModulationRows:
    """Rows of an adaLN linear (`linear`) that give shift and scale of each input channel of a site.

    `others` are such rows for other tokens that the same site reads, for example the text tokens of CogVideoX.
    """

    linear: str
    shift: tuple[int, int]
    scale: tuple[int, int]
    others: tuple["ModulationRows", ...] = ()


@dataclass(frozen=True)
class ValueRows:
    """Rows of a linear, such as qkv, that give V. A factor of a channel of V passes through attention unchanged."""

    linear: str
    rows: tuple[int, int]


@dataclass(frozen=True)
class SharedModulation:
    """Fold source of a linear in an STDiT3, where all blocks share the linear that gives shift and scale.

    The shared linear cannot absorb a factor for one block. So the site `modulate` before the linear absorbs it.
    """

    modulate: str


@dataclass(frozen=True)
class NormWeights:
    """Fold source of a site that reads the output of a LayerNorm or RMSNorm with a weight (Wan's cross-attention).

    The input may be multiplied by a modulation after the norm (Lumina 2). `shift` is a linear whose output is added to
    that of the norm (HunyuanDiT). A norm without a bias absorbs only the factor.
    """

    norm: str
    shift: str | None = None


@dataclass(frozen=True)
class OwnInput:
    """Fold source of a site whose input the model's own code modulates: it adds a table of the block to one modulation.

    All blocks share this modulation, so no layer can absorb a factor for one block (PixArt, Wan). Each site with this
    input divides it by an input transform of its own. `name` names the input that these sites share.
    """

    name: str


FoldSource = ModulationRows | ValueRows | SharedModulation | NormWeights | OwnInput


@dataclass(frozen=True)
class Site:
    """One replaceable submodule: its path, its role, and the number of its block (None outside the blocks).

    `inside` is the path of the block. It is empty if the whole model counts as one block. Only sites in diffusers'
    transformers have it; in a DiT and an STDiT3 the first two parts of `name` are this path.
    """

    name: str
    role: str
    kind: Kind
    block: int | None = None
    fold_source: FoldSource | None = None
    inside: str | None = None

    @property
    def block_path(self) -> str:
        """Path of the block that the site is in."""
        return ".".join(self.name.split(".")[:2]) if self.inside is None else self.inside


class HasSites(Protocol):
    """A model that lists its sites. Methods need no more of a model than this."""

    def sites(self) -> list[Site]: ...


class StepContext:
    """Timestep of each row (sample) of the current forward pass.

    Sites may keep a reference to it and read the timestep.
    """

    def __init__(self) -> None:
        self.timestep: torch.Tensor | None = None


def select(
    sites: Iterable[Site], *, roles: Collection[str] | None = None, kinds: Collection[Kind] | None = None
) -> list[Site]:
    """Sites that have one of the roles and one of the kinds, in the order of the model.

    None allows every role or kind.
    """
    return [s for s in sites if (roles is None or s.role in roles) and (kinds is None or s.kind in kinds)]


def linear_of(model: "nn.Module", site: Site | str) -> "nn.Linear":
    """The linear at a site, or the quantized module that replaced it. Both have `weight` and `bias`."""
    return cast("nn.Linear", model.get_submodule(site if isinstance(site, str) else site.name))


def matrix_of(model: "nn.Module", site: Site | str) -> "torch.Tensor":
    """The weight at a site as (out, in), without gradients. That of a convolution is (out, in · kernel cells)."""
    return linear_of(model, site).weight.detach().flatten(1)


def replace(model: "nn.Module", site: Site | str, module: "nn.Module") -> None:
    """Put `module` in the place of the site."""
    name = site if isinstance(site, str) else site.name
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
