"""Families for which the common patterns are enough. Only the name of the pipeline is given here."""

from qdit.models.generic.family import GenericFamily

PIPELINES = {
    "SanaTransformer2DModel": "SanaPipeline",
    "HunyuanDiT2DModel": "HunyuanDiTPipeline",
}

FAMILIES = tuple(GenericFamily(classes=(name,), pipeline=pipeline) for name, pipeline in PIPELINES.items())
