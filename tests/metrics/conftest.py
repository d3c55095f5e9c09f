"""Fixtures that several tests of the metrics share."""

from tests.shipped_classifier import digits, extractor, held_out, weights

__all__ = ["digits", "extractor", "held_out", "weights"]
