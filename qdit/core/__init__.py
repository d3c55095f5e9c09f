"""Code that every room uses: errors, files, seeds, integer arithmetic, digests, locks, names of metrics."""
