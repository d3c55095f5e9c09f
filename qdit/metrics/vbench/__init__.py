"""VBench: its prompts, its clips, how it is started, and its results."""
