"""Selection of sites: the linears of a scope, the operands of attention, and the sites that keep 8 bits or more."""

from collections.abc import Iterable, Sequence
from typing import Literal

from qdit.models.roles import CORE_ROLES, HasSites, Kind, Site, select

EDGE_ROLES = ("patch_embed", "final")
"""First and last layer."""

TEMPORAL_ROLES = ("time_embed", "fps_embed", "guidance_embed", "t_block", "adaln", "txt_adaln", "final_adaln")
"""TFMQ-DM's temporal information block: layers that see the timestep, and the label or frames per second, only."""

MODULATION_ROLES = ("adaln", "txt_adaln", "t_block")
"""Linears that make the modulation of the blocks: one for each of a DiT, one for all of an STDiT3."""

SOFTMAX_BITS = 8
"""Softmax outputs keep 8 bits in the released codes of Q-Diffusion and its descendants."""


def layers(model: HasSites, scope: Literal["common", "own"]) -> list[Site]:
    """Return the linear sites of a scope. `common`: the linears of each block. `own`: every linear and convolution."""
    if scope == "common":
        return select(model.sites(), roles=CORE_ROLES)
    kinds: tuple[Kind, ...] = ("linear", "conv", "pointwise")
    return select(model.sites(), kinds=kinds)


def operands(model: HasSites) -> list[Site]:
    """Return the operand sites of every block: q, k, softmax output and v."""
    kinds: tuple[Kind, ...] = ("operand",)
    return select(model.sites(), kinds=kinds)


def site_bits(sites: Iterable[Site], bits: int, *, edges: int | None = None) -> dict[str, int]:
    """Return the number of bits of each site by its name. All sites get `bits`, with two exceptions.

    Softmax outputs get at least 8 bits. If `edges` is set, the first and last layer get at least `edges` bits.
    """
    bits_of_site = {}
    for site in sites:
        least = SOFTMAX_BITS if site.role == "p" else edges if edges and site.role in EDGE_ROLES else bits
        bits_of_site[site.name] = max(bits, least)
    return bits_of_site


def with_roles(sites: Sequence[Site], *roles: str) -> list[Site]:
    """Return only the sites that have one of the roles."""
    return [site for site in sites if site.role in roles]
