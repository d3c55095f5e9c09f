"""Code that all rooms use: errors, files, seeds, integer arithmetic, digests, locks and the registry of metrics."""
