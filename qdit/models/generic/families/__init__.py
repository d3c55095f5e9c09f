"""Families of diffusers' transformers, one file for each family. `family_of_class` chooses the family of a class."""

from qdit.models.generic.families import (
    auraflow,
    chroma,
    cogvideox,
    dit,
    flux,
    hunyuan_dit,
    hunyuan_video,
    latte,
    lumina,
    pixart,
    qwen,
    sana,
    sd3,
    wan,
)
from qdit.models.generic.family import GenericFamily

MODULES = (
    *(dit, flux, chroma, sd3, qwen, auraflow, latte, lumina, hunyuan_video),
    *(pixart, wan, cogvideox, sana, hunyuan_dit),
)
FAMILIES: tuple[GenericFamily, ...] = tuple(family for module in MODULES for family in module.FAMILIES)
BY_CLASS: dict[str, GenericFamily] = {name: family for family in FAMILIES for name in family.classes}


def family_of_class(class_name: str) -> GenericFamily:
    """Family of a diffusers class by its name. A class without a family gets a family with the default facts."""
    return BY_CLASS.get(class_name, GenericFamily())
