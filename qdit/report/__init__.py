"""Make tables, figures, verdicts on claims, votes and pages from result files only. Nothing here imports torch."""
