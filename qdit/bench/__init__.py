"""Benchmarks of kernels, sampling and memory: measured ratios beside the goals of the project."""
