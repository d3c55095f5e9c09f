"""Lookup of a family (images or clips) by a network, by its configuration, or by the family's name in a file."""

from qdit.models.network import NetworkConfig, config_class
from qdit.models.network import family_of as name_of
from qdit.sampling.clips import ClipFamily
from qdit.sampling.family import AnyFamily
from qdit.sampling.images import ImageFamily

IMAGES, CLIPS = ImageFamily(), ClipFamily()
FAMILIES: dict[str, AnyFamily] = {family.name: family for family in (IMAGES, CLIPS)}


def family_of(config: NetworkConfig) -> AnyFamily:
    """The family to which a network with this configuration belongs."""
    return FAMILIES[name_of(config)]


def family_named(name: object) -> AnyFamily:
    """The family of this name, as a file gives it. ConfigError with a suggestion for an unknown name."""
    config_class(name)
    return FAMILIES[str(name)]
