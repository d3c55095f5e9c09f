"""Benchmarks of the kernels, of sampling and of memory: measured ratios beside the goals of the project."""
