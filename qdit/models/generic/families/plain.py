"""Families for which the common role patterns are enough. This file only names their pipelines."""

from qdit.models.generic.family import GenericFamily

PIPELINES = {
    "SanaTransformer2DModel": "SanaPipeline",
    "HunyuanDiT2DModel": "HunyuanDiTPipeline",
}

FAMILIES = tuple(GenericFamily(classes=(name,), pipeline=pipeline) for name, pipeline in PIPELINES.items())
