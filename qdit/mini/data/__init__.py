"""Data sets of the miniatures: handwritten digits and moving digits."""
