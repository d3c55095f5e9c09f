"""mini-VBench (moving digits): VBench's sixteen dimensions on clips of moving digits, and mFVD."""
