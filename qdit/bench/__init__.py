"""Benchmarks of kernels, sampling and memory. Measured ratios are compared with the goals of the project."""
