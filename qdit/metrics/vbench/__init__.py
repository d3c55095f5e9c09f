"""VBench: its prompts, its clips, how the suite runs it, and its results."""
