"""Kernels: how matrix products are computed, and which backend computed them."""
