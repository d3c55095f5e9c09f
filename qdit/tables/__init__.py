"""Tables of the papers, rendered from metrics.json files next to the published numbers: data only, no models."""
