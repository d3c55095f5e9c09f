"""The name of the module that turns words of prompts into tokens. Importing this module loads no torch."""

WORDS_MODULE = "qdit.mini.data.moving_digits_prompts"
"""Module with `parse_prompt` and `encode`. It is imported by name, so code digests must name it."""
