"""Console output, plots, profiles and experiment trackers."""
