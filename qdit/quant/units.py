"""Units of reconstruction: the blocks of a network, and the layers outside the blocks.

Outside the blocks of a DiT lie five layers: patch embedding, the two linears of the timestep embedding, the adaLN of
the final layer, and the last linear. The programs of PTQ4DiT and Q-Diffusion go through the modules of a network in
order, and reconstruct each layer or block. The program of PTQ4DiT treats the final layer as a block.
"""

from collections.abc import Iterable

from qdit.core.options import Outside
from qdit.models.roles import Site
from qdit.quant.layers import with_roles
from qdit.quant.reconstruction import Unit, block_units

FINAL_ROLES = ("final_adaln", "final")
"""Layers behind the blocks. They form one unit."""


def units_of(sites: Iterable[Site], outside: Outside) -> list[Unit]:
    """Make the units in the order of their reconstruction: single layers before the blocks, blocks, the final layer.

    `outside` says which layers outside the blocks are reconstructed. `network-order`: all, as the programs do it.
    `final`: the final layer only. `none`: no layer; all stay rounded to nearest. Scope `common` has no sites outside
    the blocks, so all three give the same units there.
    """
    members = list(sites)
    beyond = [site for site in members if site.block is None]
    final = with_roles(beyond, *FINAL_ROLES)
    before = [Unit(site.name, [site]) for site in beyond if site not in final]
    units = block_units(members)
    if outside == "network-order":
        units = [*before, *units]
    if final and outside != "none":
        units.append(Unit(final[0].name.partition(".")[0], final))
    return units
