"""Data sets that ship with packages: scikit-learn's handwritten digits."""
