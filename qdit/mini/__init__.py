"""Code that only the miniatures (small models and data sets) use: data, training, classifiers, and mini-VBench."""
