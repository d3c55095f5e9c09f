"""Where the prompts of models that read words are encoded; nothing is imported here, so planning needs no torch."""

WORDS_MODULE = "qdit.mini.data.moving_digits_prompts"
"""Module with `parse_prompt` and `encode`. It is imported by name, so code digests must name it."""
