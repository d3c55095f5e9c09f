"""Draw figures of the papers from arrays, metrics.json files and samples."""
