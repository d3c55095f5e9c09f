"""mini-VBench (moving digits): VBench's sixteen dimensions on clips of the mini video world, and mFVD."""
