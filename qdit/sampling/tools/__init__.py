"""Rows of other quantization libraries (torchao, optimum-quanto, SDNQ). Each library quantizes in its own process."""
