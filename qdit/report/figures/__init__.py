"""Figures of the papers, drawn from arrays, metrics.json files and samples."""
