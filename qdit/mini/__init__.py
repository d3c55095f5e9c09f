"""All that exists for the miniatures only: their data, training, classifiers and mini-VBench."""
