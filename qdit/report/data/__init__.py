"""Result files, read as rows and values."""
