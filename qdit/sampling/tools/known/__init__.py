"""One file for each tool that the suite knows. A file imports its package inside functions only."""
