"""Metrics in four steps: images → features → statistics → value. The computations are float64 numpy functions."""
