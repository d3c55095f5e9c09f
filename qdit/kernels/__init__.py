"""Kernels: compiled functions for matrix products and quantizers, and the choice of the backend that runs them."""
