"""Code that only the miniatures use: their data, training, classifiers and mini-VBench."""
