"""Rows of other quantization libraries (torchao, optimum-quanto, SDNQ). Each quantizes in its own process."""
