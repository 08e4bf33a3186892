"""Training as people watch it: curves, samples, comparisons of runs, and the registry of models."""
