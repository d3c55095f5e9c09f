"""The compared quantization methods, one file for each method.

`qdit.methods.registry` imports every module of this folder.
"""
