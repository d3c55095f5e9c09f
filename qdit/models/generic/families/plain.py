"""Families for which the common patterns are enough. Only the name of the pipeline is given here."""

from qdit.models.generic.family import GenericFamily

PIPELINES = {
    "PixArtTransformer2DModel": "PixArtSigmaPipeline",
    "SanaTransformer2DModel": "SanaPipeline",
    "HunyuanDiT2DModel": "HunyuanDiTPipeline",
    "WanTransformer3DModel": "WanPipeline",
    "CogVideoXTransformer3DModel": "CogVideoXPipeline",
    "LTXVideoTransformer3DModel": "LTXPipeline",
}

FAMILIES = tuple(GenericFamily(classes=(name,), pipeline=pipeline) for name, pipeline in PIPELINES.items())
