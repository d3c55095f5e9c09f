"""The name of the module that encodes prompts in words; importing this module loads no torch."""

WORDS_MODULE = "qdit.mini.data.moving_digits_prompts"
"""Module with `parse_prompt` and `encode`. It is imported by name, so code digests must name it."""
