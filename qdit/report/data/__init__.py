"""Read result files, and return them as rows of tables and as values with intervals."""
