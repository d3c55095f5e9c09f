"""What every room uses: errors, files, seeds, integer arithmetic, digests, locks, metric names."""
