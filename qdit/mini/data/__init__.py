"""Data sets of the miniatures: handwritten digits, photographs of clothes, and clips of moving digits."""
