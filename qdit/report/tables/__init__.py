"""One module for each kind of table."""
